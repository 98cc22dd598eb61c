"""A network that sees and says more: the same network, for more channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers import build_denoiser
from invad_jax.denoisers.wide import Wide, channels_of
from tests.parameters import random_like

SAYS, SEES = (("noise", 0), ("mask", 1)), (("hint", 2),)


def test_as_many_channels_as_the_larger_side_needs():
    assert channels_of(3, (("x0", 0), ("mask", 1)), ()) == 4
    assert channels_of(3, (("eps", 0),), (("mask", 1), ("image", 0))) == 7


@pytest.mark.parametrize("name", ["dit", "mlp", "unet"])
def test_its_parameters_are_those_of_the_network_inside(name):
    cfg = DenoiserConfig(
        name=name, width=32, depth=1, num_heads=2, channel_mult=(1,), head_channels=16
    )
    core = build_denoiser(cfg, (4, 4, channels_of(3, SAYS, SEES)))
    wide = Wide(core, SAYS, SEES)
    x, t = jnp.ones((2, 4, 4, 3)), jnp.array([5])
    shapes = jax.eval_shape(wide.init, jax.random.key(0), x, t)
    assert shapes == jax.eval_shape(core.init, jax.random.key(0), jnp.ones((2, 4, 4, 5)), t)
    params, ask = random_like(shapes, 0.1), jax.jit(wide.apply)
    hint = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 2)), jnp.float32)
    found = ask(params, x, t, hint=hint)
    out = jax.jit(core.apply)(params, jnp.concatenate([x, hint], axis=-1), t)
    np.testing.assert_array_equal(found["noise"], out[..., :3])
    np.testing.assert_allclose(found["mask"], 1 / (1 + np.exp(-out[..., 3:4])), rtol=1e-5)
    blind, zeros = ask(params, x, t), ask(params, x, t, hint=jnp.zeros_like(hint))
    jax.tree.map(np.testing.assert_array_equal, blind, zeros)
    assert not np.allclose(blind["noise"], found["noise"])
    assert (wide.SAYS, wide.SEES) == (("noise", "mask"), ("hint",))
