"""A network of one's own, added the way CONTRIBUTING says: a module and a line in `DENOISERS`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from invad_jax import denoisers
from invad_jax.config import Config, DenoiserConfig
from invad_jax.inference.assembly import denoise, init_params

SHAPE = (4, 4, 3)


class Toy(nn.Module):
    """What invad_jax/denoisers/toy.py would hold: one product, scaled by the timestep."""

    @nn.compact
    def __call__(self, x_t, t):
        scale = (t.astype(jnp.float32) / 1000)[:, None, None, None]
        return nn.Dense(x_t.shape[-1], kernel_init=nn.initializers.ones)(x_t) * scale


def test_a_config_builds_and_asks_it(monkeypatch):
    monkeypatch.setitem(denoisers.DENOISERS, "toy", lambda cfg, latent_shape: Toy())
    config = Config(denoiser=DenoiserConfig(name="toy"))
    params = init_params(config, SHAPE, jax.random.key(0))
    x_t = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    eps = denoise(config, params, jnp.asarray(x_t), jnp.array([500]))
    expected = np.broadcast_to(0.5 * x_t.sum(axis=-1, keepdims=True), x_t.shape)
    np.testing.assert_allclose(eps, expected, rtol=1e-5, atol=1e-6)  # float32
