"""Timesteps and plans."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invad_jax.config import Config, InversionConfig
from invad_jax.config.io import from_dict, override, to_dict
from invad_jax.diffusion.inversion import euler_step
from invad_jax.diffusion.schedule import (
    alpha_bar_schedule,
    linear_alpha_bar,
    make_plan,
    spaced_timesteps,
    with_zero_terminal_snr,
)
from invad_jax.errors import UserError
from invad_jax.paradigms.levels import alpha_bar_of

SPACINGS = ("linspace", "paper", "early", "quadratic", "cubic", "exponential")


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("linspace", [0, 500, 999]),
        ("paper", [333, 666, 999]),
        ("early", [33, 67, 100]),
        ("quadratic", [0, 250, 999]),
        ("cubic", [0, 125, 999]),
        ("exponential", [0, 31, 999]),
    ],
)
def test_three_steps_are_the_documented_ones(spacing, expected):
    assert spaced_timesteps(spacing, 3, 1000).tolist() == expected


def test_one_step_asks_once():
    assert spaced_timesteps("linspace", 1, 1000).tolist() == [0]
    assert spaced_timesteps("paper", 1, 1000).tolist() == [999]
    assert spaced_timesteps("early", 1, 1000).tolist() == [100]


@given(st.sampled_from(SPACINGS), st.integers(2, 400), st.data())
def test_any_number_of_steps_is_distinct_and_in_range(spacing, num_timesteps, data):
    num_steps = data.draw(st.integers(1, num_timesteps))
    timesteps = spaced_timesteps(spacing, num_steps, num_timesteps)
    assert len(timesteps) == num_steps
    assert timesteps.min() >= 0
    assert timesteps.max() <= num_timesteps - 1
    assert np.all(np.diff(timesteps) > 0)
    if num_steps > 1 and spacing != "early":
        assert timesteps[-1] == num_timesteps - 1


@pytest.mark.parametrize("num_steps", [0, 11])
def test_impossible_numbers_of_steps_are_refused(num_steps):
    with pytest.raises(ValueError, match=r"1\.\.10"):
        spaced_timesteps("linspace", num_steps, 10)


def test_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="linspace"):
        spaced_timesteps("lin", 3, 10)


def test_given_betas_are_the_schedule_and_survive_json():
    config = override(
        Config(),
        ["diffusion.schedule=given", "diffusion.num_timesteps=3", "diffusion.betas=0.1,0.2,0.3"],
    )
    config = from_dict(to_dict(config))
    np.testing.assert_allclose(alpha_bar_of(config), [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7], rtol=1e-15)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["diffusion.schedule=given"], "2 of them, .* takes 1000"),
        (["diffusion.betas=0.1"], "1 of them, and diffusion.schedule=linear .* takes 2"),
        (["diffusion.schedule=given", "diffusion.num_timesteps=2", "diffusion.betas=0.1,1.5"],
         r"1\.5: must be at most 1"),
        (["diffusion.betas=1e-4,1.5"], "at most 1"),
        (["diffusion.betas=1e-4,1e-3,1e-2"], "3 of them, .* takes 2"),
        (["diffusion.betas="], "0 of them, .* takes 2"),
    ],
)  # fmt: skip
def test_impossible_betas_are_refused(assignments, message):
    with pytest.raises(UserError, match=message):
        override(Config(inversion=InversionConfig(num_steps=1)), assignments)


@pytest.mark.parametrize("family", ["linear", "scaled_linear", "cosine", "sigmoid"])
def test_zero_terminal_snr_keeps_the_first_level_and_leaves_no_signal_in_the_last(family):
    plain = alpha_bar_schedule(family, 1000, (1e-4, 0.02))
    rescaled = with_zero_terminal_snr(plain)
    assert rescaled[0] == pytest.approx(plain[0], rel=1e-12)  # a few float64 operations
    assert rescaled[-1] == 0
    assert np.all(np.diff(rescaled) < 0)
    # All levels move by one affine map of their roots.
    slopes = np.diff(np.sqrt(rescaled[:-1])) / np.diff(np.sqrt(plain[:-1]))
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-6)  # differences of almost equal numbers


def test_an_inversion_through_no_signal_stays_finite():
    level = np.float32(alpha_bar_schedule("given", 2, (0.5, 1.0))[-1])
    eps, x0 = np.float32(0.7), np.float32(-1.3)
    x = np.sqrt(level) * x0 + np.sqrt(1 - level) * eps
    assert euler_step(x, eps, level, 0.0) == eps
    # A rounding of x, 2^-24, over the root of the level, 2^-15.
    assert euler_step(x, eps, level, 1.0) == pytest.approx(x0, abs=2**-9)


def test_plan_chains_levels():
    alpha_bar = linear_alpha_bar(1000, 1e-4, 2e-2)
    plan = make_plan(alpha_bar, np.array([0, 500, 999]), final_alpha_bar=0.25)
    np.testing.assert_array_equal(plan.alpha_bar_next[:-1], plan.alpha_bar[1:])
    assert plan.alpha_bar_next[-1] == np.float32(0.25)
    assert plan.alpha_bar[0] == np.float32(1 - 1e-4)


def test_schedule_agrees_with_the_published_code(golden_dir):
    golden = np.load(golden_dir / "schedule.npz")
    alpha_bar = linear_alpha_bar(1000, 1e-4, 2e-2)
    # The same float64 operations in the same order: nothing but exact equality is expected.
    np.testing.assert_array_equal(alpha_bar, golden["alpha_bar"])
    for key in golden.files:
        if key.startswith("timesteps_"):
            expected = golden[key]
            np.testing.assert_array_equal(
                spaced_timesteps("linspace", len(expected), 1000), expected, err_msg=key
            )
