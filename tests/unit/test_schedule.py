"""Timesteps and plans."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invad_jax.diffusion.schedule import linear_alpha_bar, make_plan, spaced_timesteps

SPACINGS = ("linspace", "paper", "quadratic", "cubic", "exponential")


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("linspace", [0, 500, 999]),
        ("paper", [333, 666, 999]),
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


@given(st.sampled_from(SPACINGS), st.integers(2, 400), st.data())
def test_any_number_of_steps_is_distinct_and_in_range(spacing, num_timesteps, data):
    num_steps = data.draw(st.integers(1, num_timesteps))
    timesteps = spaced_timesteps(spacing, num_steps, num_timesteps)
    assert len(timesteps) == num_steps
    assert timesteps.min() >= 0
    assert timesteps.max() <= num_timesteps - 1
    assert np.all(np.diff(timesteps) > 0)
    if num_steps > 1:
        assert timesteps[-1] == num_timesteps - 1


@pytest.mark.parametrize("num_steps", [0, 11])
def test_impossible_numbers_of_steps_are_refused(num_steps):
    with pytest.raises(ValueError, match=r"1\.\.10"):
        spaced_timesteps("linspace", num_steps, 10)


def test_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="linspace"):
        spaced_timesteps("lin", 3, 10)


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
