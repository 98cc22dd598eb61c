"""Outputs and checkpoints of the published PyTorch code, on tiny random weights."""

from functools import cache

import jax
import numpy as np
import pytest

from invad_jax.converters.published import (
    denoiser_config_from_published,
    params_from_published,
    params_to_published,
    unused_from_published,
)
from invad_jax.denoisers import build_denoiser
from invad_jax.denoisers.layers import position_sinusoids
from invad_jax.io.tensors import read_tensors

LATENT_SHAPE = (8, 8, 24)
HINTS = {"dit": {}, "mlp": {}, "unet": {"head_channels": 16}}


def load(golden_dir, kind):
    """The published tensors, our config and parameters, and the expected outputs."""
    folder = golden_dir / f"official_{kind}"
    tensors = read_tensors(folder / "model_latest.pth")
    cfg = denoiser_config_from_published(tensors, HINTS[kind])
    params = params_from_published(tensors, cfg, LATENT_SHAPE)
    return tensors, cfg, params, np.load(folder / "expected.npz")


@cache
def compiled(cfg):
    return jax.jit(build_denoiser(cfg, LATENT_SHAPE).apply)


def assert_same_eps(cfg, params, x_t, t, expected):
    """Both (B, C, h, w), as torch has them."""
    eps = compiled(cfg)({"params": params}, x_t.transpose(0, 2, 3, 1), t)
    error = np.abs(np.asarray(eps).transpose(0, 3, 1, 2) - expected).max()
    # float32 sums in another order, through some ten layers: 6e-7 was seen.
    assert error < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["dit", "mlp"])
@pytest.mark.parametrize("t", [0, 1, 500, 999])
@pytest.mark.parametrize("shared_t", [True, False])
def test_token_networks_give_the_published_output(golden_dir, kind, t, shared_t):
    _, cfg, params, expected = load(golden_dir, kind)
    x_t = expected["x0"]
    timesteps = np.array([t] if shared_t else [t] * len(x_t))
    assert_same_eps(cfg, params, x_t, timesteps, expected[f"net_t{t}"])


def test_unet_gives_the_published_output(golden_dir):
    _, cfg, params, expected = load(golden_dir, "unet")
    assert_same_eps(cfg, params, expected["x"], expected["t"], expected["y"])


@pytest.mark.parametrize("kind", ["dit", "mlp", "unet"])
def test_published_checkpoint_survives_the_way_here_and_back(golden_dir, kind):
    tensors, cfg, params, _ = load(golden_dir, kind)
    back = params_to_published(params, cfg, unused_from_published(tensors, cfg))
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert back[key].dtype == tensor.dtype, key
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)


def test_sizes_come_from_the_shapes(golden_dir):
    _, dit, _, _ = load(golden_dir, "dit")
    assert (dit.name, dit.width, dit.depth, dit.num_heads) == ("dit", 64, 3, 8)
    assert dit.patch_size == 1
    _, mlp, _, _ = load(golden_dir, "mlp")
    assert (mlp.name, mlp.width, mlp.depth) == ("mlp", 64, 2)
    _, unet, _, _ = load(golden_dir, "unet")
    assert (unet.name, unet.width, unet.num_res_blocks) == ("unet", 32, 1)
    assert (unet.channel_mult, unet.attention_downsamplings) == ((1, 2, 2), (2, 4))


def test_positions_are_the_published_ones(golden_dir):
    _, dit, params, _ = load(golden_dir, "dit")
    # sin and cos of float64 angles, rounded to float32 by either library.
    np.testing.assert_allclose(params["positions"], position_sinusoids(8, 8, dit.width), atol=1e-6)
