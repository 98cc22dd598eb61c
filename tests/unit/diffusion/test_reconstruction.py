"""The reconstruction baseline against a float64 Python loop, and against cases known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.diffusion.reconstruction import reconstruct, reconstruction_plan
from invad_jax.diffusion.schedule import linear_alpha_bar, spaced_timesteps
from invad_jax.paradigms import paradigm_of

ALPHA_BAR = linear_alpha_bar(1000, 1e-4, 2e-2)
X0, NOISE = jax.random.normal(jax.random.key(0), (2, 2, 4, 3, 5))


def plan_of(num_steps, noise_ratio):
    timesteps = spaced_timesteps("linspace", num_steps, 1000)
    return reconstruction_plan(ALPHA_BAR, timesteps, noise_ratio)


def toy_eps(x, t):
    """Smooth, nonlinear, dependent on t; works for jax and numpy arrays alike."""
    xp = jnp if isinstance(x, jax.Array) else np
    return xp.tanh(x) * (0.3 + t.reshape(-1, 1, 1, 1) / 1000)


def python_loop(x0, noise, timesteps):
    """Oracle: q(x_t | x0), then equation 12 of DDIM with sigma = 0, in float64."""
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))
    x0, noise = np.asarray(x0, np.float64), np.asarray(noise, np.float64)
    x = np.sqrt(alpha_bar[timesteps[0]]) * x0 + np.sqrt(1 - alpha_bar[timesteps[0]]) * noise
    for i, t in enumerate(timesteps):
        eps = toy_eps(x, np.array([t], np.float64))
        x0_hat = (x - np.sqrt(1 - alpha_bar[t]) * eps) / np.sqrt(alpha_bar[t])
        if i + 1 == len(timesteps):
            return x0_hat
        to = alpha_bar[timesteps[i + 1]]
        x = np.sqrt(to) * x0_hat + np.sqrt(1 - to) * eps


@pytest.mark.parametrize(
    ("num_steps", "noise_ratio", "timesteps"),
    [
        (3, 1.0, [999, 500, 0]),
        (3, 0.5, [500, 0]),  # 1.5 rounds half to even, up here
        (5, 0.5, [250, 0]),  # 2.5 rounds half to even, down here
        (5, 0.8, [749, 500, 250, 0]),
        (10, 0.01, [0]),  # at least one step
        (1, 1.0, [0]),
    ],
)
def test_equals_a_float64_loop(num_steps, noise_ratio, timesteps):
    plan = plan_of(num_steps, noise_ratio)
    assert plan.timesteps.tolist() == timesteps
    actual = jax.jit(lambda x0, noise: reconstruct(toy_eps, x0, noise, plan))(X0, NOISE)
    # float32 against float64: the first step from t = 999 divides by sqrt(alpha_bar) = 1/158, which
    # raises the rounding of a number of order 1 (6e-8) to 1e-5 of an x0_hat of order 100.
    expected = python_loop(X0, NOISE, timesteps)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("noise_ratio", [0.1, 0.5, 1.0])
def test_a_perfect_denoiser_brings_x0_back(noise_ratio):
    plan = plan_of(10, noise_ratio)
    actual = jax.jit(lambda x0: reconstruct(lambda x, t: NOISE, x0, NOISE, plan))(X0)
    # From t = 999 the rounding of x_t, 1e-7, is divided by sqrt(alpha_bar) = 1/158: 2e-5.
    np.testing.assert_allclose(actual, X0, atol=1e-4)


def test_a_denoiser_that_takes_all_for_noise():
    """eps = x_t gives x0_hat = x_t (1 - sqrt(1 - ab)) / sqrt(ab)."""
    plan = plan_of(1, 1.0)
    ab = float(plan.alpha_bar[0])
    x_t = np.sqrt(ab) * X0 + np.sqrt(1 - ab) * NOISE
    expected = x_t * (1 - np.sqrt(1 - ab)) / np.sqrt(ab)
    actual = reconstruct(lambda x, t: x, X0, NOISE, plan)
    # float32; 1 - alpha_bar = 1e-4 keeps three digits fewer than alpha_bar, under a root.
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("noise_ratio", "evaluations"), [(0.3, 3), (0.75, 8), (1.0, 10)])
def test_the_network_is_asked_once_a_step(noise_ratio, evaluations):
    asked = []

    def counting_eps(x, t):
        jax.debug.callback(lambda t: asked.append(int(t[0])), t, ordered=True)
        return x

    plan = plan_of(10, noise_ratio)
    jax.block_until_ready(reconstruct(counting_eps, X0, NOISE, plan))
    jax.effects_barrier()
    assert asked == plan.timesteps.tolist()
    assert len(asked) == evaluations


def test_one_noise_may_serve_a_batch_of_any_order():
    plan, shared = plan_of(5, 0.6), NOISE[:1]
    together = reconstruct(toy_eps, X0, shared, plan)
    alone = reconstruct(toy_eps, X0[1:], shared, plan)
    np.testing.assert_allclose(together[1:], alone, rtol=1e-6, atol=1e-6)  # another vectorisation


def paradigm():
    options = ["inversion.paradigm=reconstruction", "inversion.noise_ratio=0.5"]
    return paradigm_of(override(Config(), options))


def test_what_came_back_changed_is_squared():
    states = paradigm().states(toy_eps, X0)
    noise = jax.random.normal(jax.random.key(0), (1, *X0.shape[1:]))
    expected = (python_loop(X0, noise, [500, 0]) - np.asarray(X0, np.float64)) ** 2
    # float32; a square has twice the relative error
    np.testing.assert_allclose(states[:, 0], expected, rtol=2e-4, atol=2e-4)


def test_the_mean_squared_error_is_the_map_and_its_sum_the_nll():
    """By hand: one image of 1 x 2 positions and 2 channels."""
    scores = paradigm().compare(None, jnp.array([[[[[1.0, 3.0], [0.0, 1.0]]]]]), 2)
    np.testing.assert_array_equal(scores.latent_norm, [[[2.0, 0.5]]])
    np.testing.assert_array_equal(scores.nll, [5.0])
    np.testing.assert_array_equal(scores.map_range, [1.5])
    np.testing.assert_array_equal(scores.map_max, [2.0])
