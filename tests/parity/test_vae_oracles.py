"""The VAE against the published implementation and against `diffusers`, on random weights."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.encoders.vae import (
    AutoencoderKL,
    vae_config_from_state,
    vae_params_from_state,
)
from invad_jax.io.tensors import read_tensors
from tests.golden import nhwc

TOLERANCE = 1e-4  # float32 through some twenty convolutions, relative to values of order 1


def compiled(config):
    network = AutoencoderKL(config)
    return (jax.jit(partial(network.apply, method=method)) for method in ("encode", "decode"))


def test_published_vae(golden_dir: Path) -> None:
    state = read_tensors(golden_dir / "official_vae" / "kl.pth")
    expected = np.load(golden_dir / "official_vae" / "expected.npz")
    config = vae_config_from_state(state)
    assert (config.width, config.multipliers, config.num_res_blocks) == (32, (1, 2), 1)
    assert (config.encoder_attention, config.decoder_attention) == ((2,), ())
    assert config.latent_channels == 4

    variables = {"params": vae_params_from_state(state, config)}
    encode, decode = compiled(config)
    mean, logvar = encode(variables, nhwc(expected["x"]))
    moments = jnp.concatenate([mean, logvar], axis=-1)
    np.testing.assert_allclose(moments, nhwc(expected["moments"]), TOLERANCE, TOLERANCE)
    reconstruction = decode(variables, mean)
    expected_image = nhwc(expected["reconstruction_from_mean"])
    np.testing.assert_allclose(reconstruction, expected_image, TOLERANCE, TOLERANCE)


@pytest.fixture(scope="module")
def diffusers_vae():
    """A small `diffusers.AutoencoderKL` with attention at its lowest level, in evaluation mode."""
    torch = pytest.importorskip("torch", reason="the oracle needs torch")
    try:
        from diffusers import AutoencoderKL as Oracle
    except ImportError as error:
        pytest.skip(f"diffusers cannot be imported: {error}")
    torch.manual_seed(0)
    oracle = Oracle(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        latent_channels=3,
    ).eval()
    with torch.no_grad():  # the norms start as identities, which would hide a swapped one
        for parameter in oracle.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return oracle


@pytest.mark.parametrize("size", [(32, 32), (16, 24)])
def test_diffusers(diffusers_vae, size: tuple[int, int]) -> None:
    import torch

    state = {name: tensor.numpy() for name, tensor in diffusers_vae.state_dict().items()}
    config = vae_config_from_state(state)
    assert (config.multipliers, config.num_res_blocks) == ((1, 2, 2), 2)
    assert (config.encoder_attention, config.decoder_attention) == ((4,), (4,))
    variables = {"params": vae_params_from_state(state, config)}
    encode, decode = compiled(config)

    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, *size)).astype(np.float32)
    with torch.no_grad():
        posterior = diffusers_vae.encode(torch.from_numpy(image)).latent_dist
        decoded = diffusers_vae.decode(posterior.mean).sample
    mean, logvar = encode(variables, nhwc(image))
    np.testing.assert_allclose(mean, nhwc(posterior.mean.numpy()), TOLERANCE, TOLERANCE)
    np.testing.assert_allclose(logvar, nhwc(posterior.logvar.numpy()), TOLERANCE, TOLERANCE)
    image = decode(variables, mean)
    np.testing.assert_allclose(image, nhwc(decoded.numpy()), TOLERANCE, TOLERANCE)
