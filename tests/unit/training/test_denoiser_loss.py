"""What `make_denoiser_loss` minimises, against sums written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.detector import LatentStats
from invad_jax.diffusion.loss import min_snr_weight
from invad_jax.training.step import make_denoiser_loss

ALPHA_BAR = jnp.linspace(0.999, 0.01, 20)
STATS = LatentStats(jnp.zeros(3), jnp.ones(3))
BATCH = {"latent": jax.random.normal(jax.random.key(1), (6, 2, 2, 3))}


def denoise(params, x_t, t):
    del t
    return params * x_t


def loss_and_drawn(**options):
    loss_fn = make_denoiser_loss(denoise, ALPHA_BAR, **options)
    drawn = loss_fn.draw(BATCH, jax.random.key(0))
    return float(loss_fn.given(0.3, STATS, drawn)[0]), drawn


def squared_errors(drawn, x0):
    level = np.asarray(ALPHA_BAR, np.float64)[drawn["t"]].reshape(-1, 1, 1, 1)
    noise = np.asarray(drawn["noise"], np.float64)
    x_t = np.sqrt(level) * x0 + np.sqrt(1 - level) * noise
    return np.mean((0.3 * x_t - noise) ** 2, axis=(1, 2, 3)), level[:, 0, 0, 0]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 5.0])
def test_min_snr_weighs_each_sample_by_its_level(gamma):
    loss, drawn = loss_and_drawn(min_snr_gamma=gamma)
    errors, level = squared_errors(drawn, np.asarray(BATCH["latent"], np.float64))
    snr = level / (1 - level)
    weight = np.minimum(snr, gamma) / snr if gamma else np.ones(6)
    assert gamma == 0 or weight.min() < 1  # the levels drawn tell the weights apart
    np.testing.assert_allclose(loss, np.mean(weight * errors), rtol=1e-5)  # float32


def test_the_weight_is_one_where_noise_dominates():
    np.testing.assert_array_equal(min_snr_weight(jnp.array([0.01, 0.5]), 5.0), 1.0)


def test_latent_noise_is_added_to_what_is_trained_on_and_nothing_else_is_drawn_anew():
    loss, drawn = loss_and_drawn(latent_noise=0.5)
    plain_loss, plain = loss_and_drawn()
    np.testing.assert_array_equal(drawn["noise"], plain["noise"])
    np.testing.assert_array_equal(drawn["t"], plain["t"])
    x0 = np.asarray(BATCH["latent"], np.float64) + np.asarray(drawn["latent_noise"], np.float64)
    np.testing.assert_allclose(loss, squared_errors(drawn, x0)[0].mean(), rtol=1e-5)  # float32
    assert loss != plain_loss
    # Twelve numbers times six: the spread of their standard deviation is 1 / sqrt(2 * 72) = 8 %.
    assert 0.35 < np.std(drawn["latent_noise"]) < 0.65
