"""The Euler loop against a float64 Python loop, and against a case solved by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.diffusion.inversion import (
    angle_step,
    euler_step,
    invert,
    shrinkage,
)
from invad_jax.diffusion.schedule import linear_alpha_bar, make_plan, spaced_timesteps

ALPHA_BAR = linear_alpha_bar(1000, 1e-4, 2e-2)


def toy_eps(x, t):
    """Smooth, nonlinear, dependent on t; works for jax and numpy arrays alike."""
    xp = jnp if isinstance(x, jax.Array) else np
    return xp.tanh(x) * (0.3 + t.reshape(-1, 1, 1, 1) / 1000)


def python_loop(x, timesteps, final_alpha_bar):
    """Oracle: equation 1.3 of the method, literally, in float64."""
    x = np.asarray(x, np.float64)
    for i, t in enumerate(timesteps):
        ab = ALPHA_BAR[t]
        ab_next = ALPHA_BAR[timesteps[i + 1]] if i + 1 < len(timesteps) else final_alpha_bar
        eps = toy_eps(x, np.array([t], np.float64))
        x0_hat = (x - np.sqrt(1 - ab) * eps) / np.sqrt(ab)
        x = np.sqrt(ab_next) * x0_hat + np.sqrt(1 - ab_next) * eps
    return x


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10])
@pytest.mark.parametrize("final_alpha_bar", [0.0, 0.01])
def test_invert_equals_a_float64_loop(num_steps, final_alpha_bar):
    x0 = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    timesteps = spaced_timesteps("linspace", num_steps, 1000)
    plan = make_plan(ALPHA_BAR, timesteps, final_alpha_bar)
    expected = python_loop(x0, timesteps, final_alpha_bar)
    actual = jax.jit(lambda x: invert(toy_eps, x, plan))(x0)
    # float32 against float64; dividing by sqrt(alpha_bar) amplifies rounding up to 160 times.
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_last_step_to_zero_returns_the_last_prediction():
    x0 = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    plan = make_plan(ALPHA_BAR, np.array([0, 999]))
    one = make_plan(ALPHA_BAR, np.array([0]), ALPHA_BAR[999])
    before = invert(toy_eps, x0, one)  # compiled otherwise than within two steps
    expected = toy_eps(before, jnp.array([999]))
    np.testing.assert_allclose(invert(toy_eps, x0, plan), expected, rtol=1e-6, atol=1e-6)


def test_step_to_the_same_level_stays():
    x = jax.random.normal(jax.random.key(3), (1, 2, 2, 1))
    eps = jax.random.normal(jax.random.key(4), x.shape)
    stayed = euler_step(x, eps, jnp.float32(0.4), jnp.float32(0.4))
    np.testing.assert_allclose(stayed, x, rtol=1e-6, atol=1e-6)  # one rounding each way


def test_perfect_noise_predictor_recovers_the_noise():
    """If eps is the noise that made x_t, a step lands on the same noise at the next level."""
    x0, noise = jax.random.normal(jax.random.key(5), (2, 1, 3, 3, 2))
    ab, ab_next = jnp.float32(0.7), jnp.float32(0.2)
    x_t = jnp.sqrt(ab) * x0 + jnp.sqrt(1 - ab) * noise
    expected = jnp.sqrt(ab_next) * x0 + jnp.sqrt(1 - ab_next) * noise
    np.testing.assert_allclose(
        euler_step(x_t, noise, ab, ab_next), expected, rtol=1e-5, atol=1e-6
    )  # float32 rounding


def test_the_network_is_asked_once_a_step():
    asked = []

    def counting_eps(x, t):
        jax.debug.callback(lambda t: asked.append(int(t[0])), t, ordered=True)
        return x

    plan = make_plan(ALPHA_BAR, spaced_timesteps("linspace", 4, 1000))
    jax.block_until_ready(invert(counting_eps, jnp.ones((1, 2, 2, 1)), plan))
    jax.effects_barrier()
    assert asked == plan.timesteps.tolist()


def test_steps_in_the_angle_follow_the_ode_of_a_gaussian():
    """Of standard deviation s along a direction: z standard deviations stay z."""
    s = np.array([0.3, 1.0, 2.0], np.float32)

    def eps_fn(x, t):  # the optimal one
        level = jnp.asarray(ALPHA_BAR, jnp.float32)[t][:, None, None, None]
        return jnp.sqrt(1 - level) * x / (level * jnp.reshape(s**2, (1, 1, 1, 3)) + 1 - level)

    z = np.asarray(jax.random.normal(jax.random.key(8), (2, 2, 2, 3)))
    plan = make_plan(ALPHA_BAR, spaced_timesteps("linspace", 1000, 1000))
    x_T = invert(eps_fn, jnp.asarray(z * s), plan, angle_step)
    # 1000 Euler steps: of first order, and the first level already holds noise of 1e-4.
    np.testing.assert_allclose(x_T, z, rtol=0.02, atol=1e-3)
    few = make_plan(ALPHA_BAR, spaced_timesteps("linspace", 3, 1000))
    white = invert(eps_fn, jnp.asarray(z * s), few, angle_step)[..., 1]
    np.testing.assert_allclose(white, z[..., 1], rtol=1e-4, atol=1e-5)  # float32


def test_what_the_published_step_makes_of_white_latents():
    for steps in (1, 3, 10):
        plan = make_plan(ALPHA_BAR, spaced_timesteps("paper", steps, 1000))

        def eps_fn(x, t):
            return jnp.sqrt(1 - jnp.asarray(ALPHA_BAR, jnp.float32)[t][:, None, None, None]) * x

        x = jnp.ones((1, 1, 1, 1))
        found = float(invert(eps_fn, x, plan).squeeze())
        assert found == pytest.approx(shrinkage(plan), rel=1e-4)  # float32
