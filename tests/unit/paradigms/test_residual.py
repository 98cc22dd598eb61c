"""The denoising error about one noise, where the best denoiser is known in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.diffusion.schedule import linear_alpha_bar
from invad_jax.inference.arrays import reference_to_device
from invad_jax.normality import reference
from invad_jax.normality.mixture import Component
from invad_jax.paradigms import paradigm_of

ALPHA_BAR = linear_alpha_bar(1000, 1e-4, 2e-2)
MEAN, STD = 0.3, 0.5
SHAPE = (2, 3, 4)


def of(*options):
    return paradigm_of(override(Config(), ["inversion.paradigm=residual", *options]))


def best_eps(x, t):
    """The expected noise in x_t of latents that are N(MEAN, STD^2) each."""
    level = jnp.asarray(ALPHA_BAR, jnp.float32)[t][:, None, None, None]
    variance = level * STD**2 + (1 - level)
    return jnp.sqrt(1 - level) * (x - jnp.sqrt(level) * MEAN) / variance


def latents(count, seed):
    rng = np.random.default_rng(seed)
    return (MEAN + STD * rng.standard_normal((count, *SHAPE))).astype(np.float32)


def noise():
    """What `states` leaves where the network says 0 of a latent 0: minus the noise."""
    zero = jnp.zeros((1, *SHAPE))
    return -np.asarray(jax.jit(partial(of().states, lambda x, t: 0 * x))(zero), np.float64)[:, 0]


@pytest.mark.parametrize(("ratio", "t"), [(0.2, 200), (0.5, 500), (1.0, 999)])
def test_the_residual_of_gaussian_latents(ratio, t):
    paradigm, x0 = of(f"inversion.noise_ratio={ratio}"), latents(3, 0)
    assert paradigm.timesteps == (t,)
    found = jax.jit(lambda x: paradigm.states(best_eps, x))(x0)
    # eps(x_t) - noise, in float64: (r a (x0 - mean) - a^2 s^2 noise) / (a^2 s^2 + r^2).
    a, r = np.sqrt(ALPHA_BAR[t]), np.sqrt(1 - ALPHA_BAR[t])
    below = a**2 * STD**2 + r**2
    expected = (r * a * (x0.astype(np.float64) - MEAN) - a**2 * STD**2 * noise()) / below
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-5)  # float32 against 64


def test_the_noise_is_standard_normal_and_of_the_position():
    zero = jnp.zeros((1, 16, 16, 32))
    drawn = -np.asarray(jax.jit(partial(of().states, lambda x, t: 0 * x))(zero)).ravel()
    # 8,192 numbers: their mean and variance are off by 0.011 and 0.016, one standard deviation.
    assert abs(drawn.mean()) < 0.05
    assert abs(drawn.var() - 1) < 0.07
    assert len(np.unique(drawn)) > 0.99 * drawn.size


def test_a_score_does_not_depend_on_its_batch():
    paradigm, x0 = of("scoring.prior=standard_normal"), latents(5, 1)
    together = paradigm.states(best_eps, x0)
    alone = [paradigm.states(best_eps, x0[i : i + 1])[0] for i in range(5)]
    np.testing.assert_array_equal(together, np.stack(alone))


def test_alone_it_is_the_length():
    states = jax.jit(partial(of().states, best_eps))(latents(4, 2))
    compare = of("scoring.prior=standard_normal").compare
    scores = jax.jit(lambda states: compare(None, states, 6))(states)
    length = np.linalg.norm(np.asarray(states, np.float64)[:, 0], axis=-1)
    np.testing.assert_allclose(scores.latent_norm, length, rtol=1e-5)  # float32
    assert of("scoring.prior=standard_normal").terms == ("map_top",)


def test_fitted_to_gaussian_latents_it_is_the_distance_of_x0():
    """Then the residual is a multiple of x0, moved by the noise: no Gaussian tells them apart."""
    paradigm, normal, test = of(), latents(60, 3), latents(4, 4)
    compare = jax.jit(paradigm.compare, static_argnums=2)

    def distances(states_of):
        states = [np.asarray(states_of(x)) for x in (normal, test)]
        learnt = reference.learn(paradigm.lessons, [Component("nut", [states[0]])])
        return compare(reference_to_device(learnt), states[1], 6).latent_norm

    of_x0 = distances(lambda x: x[:, None])
    of_residual = distances(jax.jit(partial(paradigm.states, best_eps)))
    np.testing.assert_allclose(of_residual, of_x0, rtol=1e-3)  # x0 is read back from float32
