"""The VAE's shapes, its scale as an encoder, and what it says about files that do not fit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from invad_jax.config import EncoderConfig
from invad_jax.encoders import vae
from invad_jax.encoders.vae import (
    AutoencoderKL,
    VAEConfig,
    vae_config_from_state,
    vae_params_from_state,
)
from invad_jax.errors import UserError
from tests.parameters import random_like

SMALL = VAEConfig(
    width=8, multipliers=(1, 2, 3), num_res_blocks=1, encoder_attention=(4,), latent_channels=2
)


@pytest.fixture(scope="module")
def params():
    return random_like(vae.abstract_params(SMALL), 0.3)


@jax.jit
def encode(params, image):
    return AutoencoderKL(SMALL).apply({"params": params}, image, method="encode")


def ldm_state(params, prefix: str = "") -> dict[str, np.ndarray]:
    """The parameters as latent diffusion would have saved them, written out by hand."""
    state = {}
    for path, leaf in flatten_dict(params, sep="/").items():
        parts = []
        for part in path.split("/"):
            word, _, number = part.rpartition("_")
            if word in ("downsample", "upsample"):
                parts += [word.removesuffix("sample"), number, word]
            elif word in ("down", "up") or (word in ("block", "attn") and parts[-1].isdigit()):
                parts += [word, number]
            else:
                parts.append({"kernel": "weight", "scale": "weight"}.get(part, part))
        if parts[-1] == "weight" and leaf.ndim == 2:
            leaf = leaf.T[:, :, None, None]
        elif leaf.ndim == 4:
            leaf = leaf.transpose(3, 2, 0, 1)
        state[prefix + ".".join(parts)] = leaf
    return state


def test_shapes_and_posterior_range(params) -> None:
    image = jnp.zeros((2, 16, 24, 3))
    mean, logvar = encode(params, image)
    assert mean.shape == logvar.shape == (2, 4, 6, 2)
    decode = partial(AutoencoderKL(SMALL).apply, method="decode")
    assert jax.eval_shape(decode, {"params": params}, mean).shape == image.shape
    loud = params | {"quant_conv": {**params["quant_conv"], "bias": jnp.full(4, 1e3)}}
    _, logvar = encode(loud, image)
    np.testing.assert_array_equal(logvar, vae.LOGVAR_RANGE[1])


@pytest.mark.parametrize(("channels", "groups"), [(8, 8), (24, 8), (32, 32), (40, 8), (128, 32)])
def test_groups_divide_every_width(channels: int, groups: int) -> None:
    """Within each group of channels the output has zero mean, within no smaller set."""
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, channels))
    module = vae.AttentionBlock()
    shapes = jax.eval_shape(module.init, jax.random.key(1), x)["params"]
    silent = jax.tree.map(jnp.zeros_like, shapes) | {
        "norm": {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)},
        "v": {"kernel": jnp.eye(channels), "bias": jnp.zeros(channels)},
        "proj_out": {"kernel": jnp.eye(channels), "bias": jnp.zeros(channels)},
    }
    # Queries of zero attend evenly: what is added is each channel's mean after the normalisation.
    assert jax.tree.map(jnp.shape, silent) == jax.tree.map(jnp.shape, shapes)
    added = np.asarray(jax.jit(module.apply)({"params": silent}, x) - x)[0, 0, 0]
    grouped = added.reshape(groups, -1).mean(axis=1)
    np.testing.assert_allclose(grouped, 0, atol=1e-5)  # float32 sums of order-1 values
    if groups < channels:
        assert np.abs(added).max() > 1e-3


@pytest.mark.parametrize("prefix", ["", "model.", "state_dict.first_stage_model."])
def test_latent_diffusion_names(params, prefix: str) -> None:
    state = ldm_state(params, prefix)
    state |= {
        "state_dict.model.diffusion_model.out.weight": np.zeros(3),
        f"{prefix}loss.w": np.ones(1),
    }
    assert vae_config_from_state(state) == SMALL
    converted = vae_params_from_state(state, SMALL)
    jax.tree.map(np.testing.assert_array_equal, converted, params)


def test_both_generations_of_diffusers_attention(params) -> None:
    old = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn", "norm": "group_norm"}
    new = old | {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    for names in (old, new):
        state = diffusers_state(params, names)
        assert vae_config_from_state(state) == SMALL
        jax.tree.map(np.testing.assert_array_equal, vae_params_from_state(state, SMALL), params)


def diffusers_state(params, attention_names: dict[str, str]) -> dict[str, np.ndarray]:
    """Through latent diffusion's names, one part at a time."""
    state = {}
    for key, tensor in ldm_state(params).items():
        side, *parts = key.split(".")
        if parts[0] in ("down", "up"):
            level = int(parts[1]) if parts[0] == "down" else 2 - int(parts[1])
            kinds = {"block": "resnets", "attn": "attentions"}
            if parts[2] in kinds:
                parts[2] = kinds[parts[2]]
            else:
                parts[2] = f"{parts[2]}rs.0"
            parts[:2] = [f"{parts[0]}_blocks", str(level)]
        elif parts[0] == "mid":
            where = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}
            parts[:2] = ["mid_block", where[parts[1]]]
        if "attentions" in ".".join(parts):
            parts[-2] = attention_names[parts[-2]]
            tensor = tensor[:, :, 0, 0] if tensor.ndim == 4 else tensor
        name = ".".join([side, *parts]).replace("nin_shortcut", "conv_shortcut")
        name = name.replace(".norm_out.", ".conv_norm_out.")
        state[name] = tensor
    return state


def test_all_that_does_not_fit_is_said_at_once(params) -> None:
    state = ldm_state(params)
    del state["decoder.mid.attn_1.q.bias"]
    state["encoder.mid.extra.weight"] = np.zeros(3)
    state["encoder.conv_out.weight"] = np.zeros((4, 24, 1, 1))
    with pytest.raises(UserError) as error:
        vae_params_from_state(state, SMALL)
    message = str(error.value)
    assert "missing: decoder.mid.attn_1.q.bias" in message
    assert "unexpected: encoder.mid.extra.weight" in message
    assert "encoder.conv_out.weight is (4, 24), expected (4, 24, 3, 3)" in message


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"conv1.weight": np.zeros((8, 3, 3, 3))}, "no AutoencoderKL"),
        ({"encoder.conv_in.weight": np.zeros((8, 3, 3, 3))}, "not a whole AutoencoderKL"),
    ],
)
def test_other_files(state: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vae_config_from_state(state)


def test_as_an_encoder(params) -> None:
    config = EncoderConfig(name="vae")
    backbone = vae.vae_backbone(SMALL, 0.25, config, image_size=16)
    variables = backbone.convert(ldm_state(params))
    assert jax.tree.structure(variables) == jax.tree.structure(backbone.abstract)
    assert set(variables["params"]) == {"encoder", "quant_conv"}

    image = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    (latent,) = jax.jit(backbone.features)(variables, image)
    mean, _ = encode(params, image)
    np.testing.assert_allclose(latent, mean / 4, rtol=1e-5, atol=1e-6)  # the same float32 sums
    assert (0 - np.array(backbone.mean) == -np.array(backbone.std)).all()  # black is -1

    with pytest.raises(UserError, match=r"data\.image_size=18"):
        vae.vae_backbone(SMALL, 0.25, config, image_size=18)
    with pytest.raises(UserError, match=r"encoder\.stages"):
        vae.vae_backbone(SMALL, 0.25, EncoderConfig(name="vae", stages=(1,)), image_size=16)


@pytest.mark.parametrize(
    ("name", "shape", "num_params"),
    [("vae_sd", (32, 32, 4), 83_653_863), ("vae_kl16", (16, 16, 16), 66_456_019)],
)
def test_published_sizes(name: str, shape: tuple[int, int, int], num_params: int) -> None:
    """Parameters as counted in diffusers and in the published code."""
    backbone = vae.build_backbone(EncoderConfig(name=name), image_size=256)
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    (latent,) = jax.eval_shape(backbone.features, backbone.abstract, image)
    assert latent.shape == (1, *shape)
    whole = vae.abstract_params(vae.VARIANTS[name][0])
    assert sum(leaf.size for leaf in jax.tree.leaves(whole)) == num_params
