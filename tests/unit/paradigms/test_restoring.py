"""How a restored image is compared with the image: in the latents, by stages, decoded."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import Config, EncoderConfig, VAEConfig
from invad_jax.config.io import override
from invad_jax.detector import Detector, DetectorVariables, LatentStats
from invad_jax.encoders import build_encoder, stage_channels
from invad_jax.encoders.vae import AutoencoderKL, abstract_params, vae_state_from_params
from invad_jax.errors import UserError
from invad_jax.io.tensors import write_tensors
from invad_jax.paradigms import paradigm_of, published_maps
from tests.parameters import random_like

DECO = ("inversion.paradigm=deco_diff", "diffusion.prediction=deviation",
        "diffusion.num_timesteps=10", "inversion.num_steps=5")  # fmt: skip
MAD = ("inversion.paradigm=mad_ad", "diffusion.prediction=sample", "diffusion.num_timesteps=10")
STATS = LatentStats(jnp.array([1.0, -2.0, 0.0, 0.5]), jnp.array([2.0, 1.0, 0.5, 3.0]))


def detector_of(paradigm, decode=None):
    return Detector(
        encode=None, denoise=None, states=paradigm.states, compare=paradigm.compare,
        image_size=16, inverts=False, raw=paradigm.raw, decode=decode,
    )  # fmt: skip


def variables(decoder=None):
    return DetectorVariables((), (), STATS, decoder=decoder)


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((3, 2, 8, 8, 4)), jnp.float32)


def test_diad_compares_the_directions_of_each_stage_in_its_own_units():
    options = ["inversion.paradigm=diad", "inversion.num_steps=10", "encoder.stages=0,2"]
    config = override(Config(), [*options, "scoring.prior=standard_normal"])
    sizes = stage_channels(config.encoder, config.data.image_size)
    assert len(sizes) == 2
    rng = np.random.default_rng(1)
    states = rng.standard_normal((2, 2, 4, 4, sum(sizes))).astype(np.float32)
    stats = LatentStats(*(jnp.asarray(rng.uniform(1, 2, sum(sizes)), jnp.float32) for _ in "ab"))
    paradigm = paradigm_of(config)
    found = detector_of(paradigm).judge(DetectorVariables((), (), stats), jnp.asarray(states))
    raw = states.astype(np.float64) * np.asarray(stats.std) + np.asarray(stats.mean)
    expected, first = np.zeros((2, 4, 4)), 0
    for size in sizes:
        a, b = (raw[:, k, ..., first : first + size] for k in (0, 1))
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        expected += 1 - (a * b).sum(-1) / lengths
        first += size
    np.testing.assert_allclose(found.latent_norm, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.map_max, expected.max((1, 2)), rtol=1e-4)


def test_stages_grouped_or_made_components_are_as_many_runs():
    vit = EncoderConfig(name="dinov2_vits14", weights="random", stages=(2, 3, 5, 6), groups=2)
    assert stage_channels(vit, 28) == (384, 384)
    assert stage_channels(EncoderConfig(channels=7), 64) == (7,)


def test_latents_of_no_known_encoder_are_one_stage(pair):
    options = ["inversion.paradigm=diad", "inversion.num_steps=10", "scoring.prior=standard_normal"]
    paradigm = paradigm_of(override(Config(), options))
    found = paradigm.compare(None, pair, 16).latent_norm
    np.testing.assert_allclose(found, published_maps.unlike(pair[:, 0], pair[:, 1]), rtol=1e-5)


@pytest.mark.parametrize("options", [DECO, MAD])
def test_decoded_images_are_compared_as_published(options, pair):
    """At the size of the images, from latents in the units of the encoder."""
    paradigm = paradigm_of(override(Config(), [*options, "scoring.prior=decoded"]))
    assert paradigm.decodes

    def decode(scale, latent):
        return scale * jnp.repeat(jnp.repeat(latent[..., :3], 2, axis=1), 2, axis=2)

    found = detector_of(paradigm, decode).judge(variables(0.1), pair)
    raw = jnp.asarray(np.asarray(pair) * np.asarray(STATS.std) + np.asarray(STATS.mean))
    images = [decode(0.1, raw[:, k]) for k in (0, 1)]
    if options is DECO:
        expected = published_maps.deco_diff(*images, raw[:, 0], raw[:, 1])["geometric"]
    else:
        expected = published_maps.mad_ad(*images)
    np.testing.assert_allclose(found.anomaly_map, expected, atol=1e-5)
    np.testing.assert_allclose(found.map_max, jnp.max(expected, axis=(1, 2)), atol=1e-5)


@pytest.mark.parametrize("name", ["inversion", "residual", "transfusion", "omiad", "diad"])
def test_what_compares_no_images_is_refused(name):
    needed = {
        "transfusion": ["diffusion.num_timesteps=5"], "diad": ["inversion.num_steps=4"],
        "omiad": ["diffusion.prediction=sample"],
    }.get(name, [])  # fmt: skip
    options = [f"inversion.paradigm={name}", *needed, "scoring.prior=decoded"]
    with pytest.raises(UserError, match=rf"inversion.paradigm={name} compares no images"):
        paradigm_of(override(Config(), options))


def test_a_vae_gives_its_way_back(tmp_path):
    config = VAEConfig(width=32, multipliers=(1, 1), num_res_blocks=1)
    network = AutoencoderKL(config)
    params = random_like(abstract_params(config), 0.1)
    state = vae_state_from_params(params) | {"scale": np.float32(0.5)}
    write_tensors(tmp_path / "vae.safetensors", state)
    encoder = build_encoder(EncoderConfig(name="vae", weights=str(tmp_path)), 16)
    decode, decoder = encoder.load_decoder()
    latent = jax.random.normal(jax.random.key(2), encoder.latent_shape)[None]
    expected = jax.jit(partial(network.apply, method="decode"))({"params": params}, latent / 0.5)
    np.testing.assert_allclose(jax.jit(decode)(decoder, latent), expected, atol=1e-5)
    assert set(decoder["params"]) == {"decoder", "post_quant_conv"}
    assert build_encoder(EncoderConfig(weights="random"), 64).load_decoder is None
