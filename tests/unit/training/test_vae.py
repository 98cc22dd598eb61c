"""First-stage training: its loss and measures by hand, its images, its file as an encoder."""

import dataclasses
import json
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import integrate, stats

from invad_jax.config import (
    Config,
    DataConfig,
    EncoderConfig,
    EvalConfig,
    MeshConfig,
    VAEConfig,
    VAELossConfig,
)
from invad_jax.config.io import override
from invad_jax.data import pipeline
from invad_jax.data.dataset import Sample
from invad_jax.encoders import build_encoder
from invad_jax.encoders.vae import AutoencoderKL, vae_params_from_state, vae_state_from_params
from invad_jax.errors import UserError
from invad_jax.io.tensors import write_tensors
from invad_jax.runtime.sharding import make_mesh
from invad_jax.training import image_quality, vae
from invad_jax.training.image_quality import psnr
from invad_jax.training.vae_loss import kl_to_standard_normal, make_vae_loss, perceptual_distance

SIZE = 16
TINY = VAEConfig(width=12, multipliers=(1, 2), num_res_blocks=1, latent_channels=2)
CONFIG = Config(data=DataConfig(image_size=SIZE), vae=TINY, eval=EvalConfig(batch_size=8))
MODEL = AutoencoderKL(TINY)
encode, decode = (
    jax.jit(lambda params, x, method=method: MODEL.apply({"params": params}, x, method=method))
    for method in ("encode", "decode")
)
ssim = jax.jit(image_quality.ssim)


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))["params"]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Eleven images of noise around levels of their own."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(11):
        pixels = 20 * i + rng.integers(0, 40, (SIZE, SIZE, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")
    return tuple(Sample(str(p), "noise", "good", 0) for p in sorted(folder.iterdir()))


@pytest.fixture(scope="module")
def images(samples):
    return np.stack([np.asarray(Image.open(sample.path)) for sample in samples])


# --- measures


def test_psnr_of_known_errors():
    a = np.zeros((3, 4, 5, 3), np.float32)
    b = a + np.array([0.1, 0.01, 0], np.float32)[:, None, None, None]
    # 0.1 is not a float32: seven digits of the square remain
    np.testing.assert_allclose(psnr(a, b), [20, 40, 100], rtol=1e-5)


def ssim_by_loops(a, b):
    """Wang et al. 2004, equations 13 to 17, one window at a time in float64."""
    x = np.arange(11) - 5
    window = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for channel in range(a.shape[-1]):
        for i in range(a.shape[0] - 10):
            for j in range(a.shape[1] - 10):
                p, q = (image[i : i + 11, j : j + 11, channel] for image in (a, b))
                mu_p, mu_q = (window * p).sum(), (window * q).sum()
                var_p = (window * (p - mu_p) ** 2).sum()
                var_q = (window * (q - mu_q) ** 2).sum()
                cov = (window * (p - mu_p) * (q - mu_q)).sum()
                values.append(
                    (2 * mu_p * mu_q + 0.01**2) * (2 * cov + 0.03**2)
                    / ((mu_p**2 + mu_q**2 + 0.01**2) * (var_p + var_q + 0.03**2))
                )  # fmt: skip
    return np.mean(values)


@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_ssim_is_that_of_the_authors(noise):
    rng = np.random.default_rng(0)
    a = rng.uniform(size=(2, 14, 17, 3))
    b = np.clip(a + noise * rng.normal(size=a.shape), 0, 1)
    expected = [ssim_by_loops(*pair) for pair in zip(a, b, strict=True)]
    found = ssim(a.astype(np.float32), b.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)  # float32 sums of 121 values


def test_ssim_of_flat_and_equal_images():
    flat = np.full((1, 12, 12, 1), 0.9, np.float32)
    # Where nothing varies only luminance is compared; float32 leaves 1e-7 of variance beside 9e-4.
    expected = (2 * 0.9 * 0.6 + 1e-4) / (0.9**2 + 0.6**2 + 1e-4)
    np.testing.assert_allclose(ssim(flat, flat - 0.3), expected, atol=1e-3)
    noise = np.random.default_rng(0).uniform(size=(1, 12, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(ssim(noise, noise), 1, atol=1e-6)


@pytest.mark.parametrize(("mean", "variance"), [(0, 1), (1.5, 1), (0, 0.01), (-0.7, 4)])
def test_divergence_is_the_integral(mean, variance):
    q = stats.norm(mean, math.sqrt(variance))
    expected, _ = integrate.quad(
        lambda x: q.pdf(x) * (q.logpdf(x) - stats.norm.logpdf(x)),
        *q.interval(1 - 1e-14), epsabs=1e-10,
    )  # fmt: skip
    found = kl_to_standard_normal(jnp.float32(mean), jnp.log(jnp.float32(variance)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def feature(*vector):
    return jnp.array(vector, jnp.float32).reshape(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ([feature(3, 4)], [feature(6, 8)], 0),  # only directions count
        ([feature(3, 4)], [feature(4, 3)], 2 * 0.2**2),
        ([feature(1, 0)], [feature(-1, 0)], 4),
        ([feature(3, 4), feature(1, 0, 0)], [feature(3, 4), feature(0, 0, 2)], (0 + 2) / 2),
    ],
)
def test_perceptual_distance_by_hand(a, b, distance):
    np.testing.assert_allclose(perceptual_distance(a, b), distance, atol=1e-6)


def test_features_of_zeros_have_a_finite_slope():
    slope = jax.grad(lambda x: perceptual_distance([x], [feature(1, 0)]))(feature(0, 0))
    assert np.isfinite(slope).all()


# --- the loss


@cache
def compiled_loss(cfg, features):
    return jax.jit(make_vae_loss(TINY, cfg, features).__call__)


def loss_of(params, images, cfg, features=None, frozen=(), rng=1):
    batch = {"image": jnp.asarray(images[:3])}
    return compiled_loss(cfg, features)(params, frozen, batch, jax.random.key(rng))


def test_loss_is_the_sum_of_its_terms(params, images):
    """As latent diffusion writes it, sums over an image, divided by its number of values."""
    signed = images.astype(np.float64) * 2 / 255 - 1
    mean, logvar = encode(params, signed)
    noise = jax.random.normal(jax.random.key(1), mean[:3].shape)
    noise = np.resize(noise, mean.shape)
    decoded = decode(params, mean + np.exp(logvar / 2) * noise)
    signed, mean, logvar, decoded = (each[:3] for each in (signed, mean, logvar, decoded))
    difference = np.abs(signed - decoded)
    divergence = kl_to_standard_normal(mean, logvar)
    weight, strength = 0.37, 2.5

    def features(factor, image):
        return [factor * image]

    def direction(image):
        pixels = np.asarray(image, np.float64) + 1
        return pixels / np.linalg.norm(pixels, axis=-1, keepdims=True)

    perceptual = ((direction(signed) - direction(decoded)) ** 2).sum(-1).mean()
    expected = (difference.sum() + weight * divergence.sum()) / signed.size + strength * perceptual
    cfg = VAELossConfig(kl_weight=weight, perceptual_weight=strength)
    loss, scalars = loss_of(params, images, cfg, features, jnp.float32(3))
    found = [loss, scalars["reconstruction"], scalars["kl"], scalars["perceptual"]]
    expected = [expected, difference.mean(), divergence.mean(), perceptual]
    np.testing.assert_allclose(found, expected, rtol=1e-4)  # float32 networks run twice


def test_the_posterior_is_sampled(params, images):
    losses = [loss_of(params, images, VAELossConfig(), rng=rng)[0] for rng in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_every_parameter_is_reached_by_the_reconstruction_alone(params, images):
    def loss(params):
        return loss_of(params, images, VAELossConfig(kl_weight=0))[0]

    slopes = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params))
    largest = max(np.abs(slope).max() for _, slope in slopes)
    for path, slope in slopes:
        name = jax.tree_util.keystr(path)
        # A bias of all keys shifts every logit of a query alike, which softmax ignores.
        if not name.endswith("['k']['bias']"):
            assert np.abs(slope).max() > 1e-7 * largest, name


# --- images for training


def draws(iterator, count):
    return np.stack([next(iterator)["image"] for _ in range(count)])


def batches(samples, batch_size=4, process_index=0, process_count=1):
    paths = [sample.path for sample in samples]
    return pipeline.training_image_batches(
        paths, DataConfig(image_size=SIZE), 7, batch_size, process_index, process_count
    )


@pytest.mark.parametrize("kept", [0, 5, 11])
def test_images_come_in_the_order_of_latents_however_many_are_kept(
    samples, images, monkeypatch, kept
):
    monkeypatch.setattr(pipeline, "_KEPT_BYTES", kept * images[0].nbytes + 1)
    latents = pipeline.latent_batches(images, 7, 4)
    expected = np.stack([next(latents)["latent"] for _ in range(9)])
    found = draws(batches(samples), 9)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_kept_images_are_read_once(samples, monkeypatch):
    read, reads = pipeline.read_image, []
    monkeypatch.setattr(pipeline, "read_image", lambda *a: reads.append(a[0]) or read(*a))
    data = DataConfig(image_size=SIZE)
    images = pipeline._Images([sample.path for sample in samples], data)
    for i in [3, 1, 3, 1, 3]:
        np.testing.assert_array_equal(images[i], read(samples[i].path, data))
    assert reads == [samples[3].path, samples[1].path]


@pytest.mark.parametrize("broken_after", [0, 4])
def test_images_resume_exactly(samples, broken_after):
    unbroken = draws(batches(samples), 9)
    first, second = batches(samples), batches(samples)
    for _ in range(broken_after):
        next(first)
    state = json.loads(json.dumps(first.get_state()))  # as a checkpoint keeps it
    next(second)
    second.set_state(state)
    np.testing.assert_array_equal(draws(second, 9 - broken_after), unbroken[broken_after:])


def test_processes_share_the_global_batch(samples):
    whole = draws(batches(samples), 3)
    parts = np.concatenate([draws(batches(samples, 4, i, 2), 3) for i in range(2)], axis=1)
    key = (..., 0, 0, 0)  # noise: the first pixels tell the images apart
    np.testing.assert_array_equal(np.sort(parts[key], axis=1), np.sort(whole[key], axis=1))


def test_a_damaged_image_is_named(samples, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"bad\.png"):
        draws(batches([*samples[:2], Sample(str(bad), "noise", "good", 0)], batch_size=3), 1)


# --- what a training leaves


@pytest.mark.parametrize("held_out", [True, False])
def test_summary_measures_scale_on_training_and_quality_on_held_out(
    params, samples, images, held_out
):
    mesh = make_mesh(MeshConfig())
    fit, rest = (samples[:8], samples[8:]) if held_out else (samples, ())
    summary = vae.summarise(CONFIG, params, 5, fit, rest, mesh)
    signed = jnp.asarray(images * np.float32(2 / 255) - 1)
    mean, logvar = encode(params, signed)
    decoded = np.clip(decode(params, mean) / 2 + 0.5, 0, 1)
    latents = np.asarray(mean, np.float64)[: len(fit)]
    judged = slice(8, None) if held_out else slice(None)
    errors = np.square(decoded - images / 255)[judged].mean(axis=(1, 2, 3))
    close = {"rel": 1e-4}  # float32 networks, compiled on eight devices and on one
    assert summary["latent_std"] == pytest.approx(latents.std(), **close)
    assert summary["scale"] == pytest.approx(1 / latents.std(), **close)
    assert summary["psnr"] == pytest.approx(np.mean(-10 * np.log10(errors)), **close)
    assert summary["kl"] == pytest.approx(
        float(kl_to_standard_normal(mean, logvar)[judged].mean()), **close
    )
    assert summary["latent_shape"] == list(mean.shape[1:])
    assert (summary["n_images"], summary["held_out"]) == ((3, True) if held_out else (11, False))


def test_collapsed_latents_are_refused(params, samples):
    silent = params | {"quant_conv": jax.tree.map(jnp.zeros_like, params["quant_conv"])}
    with pytest.raises(UserError, match=r"vae_loss\.kl_weight=1e-06: .* lower it"):
        vae.summarise(CONFIG, silent, 5, samples, (), make_mesh(MeshConfig()))


def test_pictures_show_the_image_beside_its_reconstruction(params, samples, images):
    mesh = make_mesh(MeshConfig())
    draw = vae.make_draw(CONFIG, samples[:2], mesh)
    with jax.transfer_guard("disallow"):
        picture = draw(jax.device_put(params, vae.replicated(mesh)))["reconstructions"]
    assert picture.shape == (2 * SIZE, 2 * SIZE, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:, :SIZE], np.concatenate(images[:2]))
    signed = jnp.asarray(images * np.float32(2 / 255) - 1)
    expected = 127.5 * (np.concatenate(decode(params, encode(params, signed)[0])[:2]) + 1)
    # Rounding may fall to either side.
    np.testing.assert_allclose(picture[:, SIZE:], np.clip(expected, 0, 255), atol=0.51)
    assert vae.make_draw(CONFIG, (), mesh)(params) == {}


def write(folder, params, scale=0.5):
    vae.write_results(folder, {"scale": scale}, jax.device_get(params), {})
    return EncoderConfig("vae", str(folder))


def test_names_there_and_back(params):
    state = vae_state_from_params(jax.device_get(params))
    jax.tree.map(np.testing.assert_array_equal, vae_params_from_state(state, TINY), params)


def test_the_workdir_is_an_encoder(params, images, tmp_path):
    encoder = build_encoder(write(tmp_path / "a", params), SIZE)
    assert encoder.latent_shape == (8, 8, 2)
    signed = jnp.asarray(images * np.float32(2 / 255) - 1)
    mean, _ = encode(params, signed)
    latent = jax.jit(encoder.apply)(encoder.variables, images)
    np.testing.assert_allclose(latent, mean / 2, rtol=1e-4, atol=1e-5)  # the same float32 network
    # What it is called does not matter, what is in it does.
    moved = build_encoder(write(tmp_path / "b", params), SIZE)
    by_file = build_encoder(EncoderConfig("vae", str(tmp_path / "b" / "vae.safetensors")), SIZE)
    rescaled = build_encoder(write(tmp_path / "c", params, scale=0.25), SIZE)
    assert encoder.fingerprint == moved.fingerprint == by_file.fingerprint
    assert encoder.fingerprint != rescaled.fingerprint


def test_folders_that_are_no_vae(params, tmp_path):
    no_scale, no_vae, whole = (tmp_path / name for name in ("no_scale", "no_vae", "whole"))
    for folder in (no_scale, no_vae):
        folder.mkdir()
    write_tensors(no_scale / "vae.safetensors", vae_state_from_params(jax.device_get(params)))
    write_tensors(no_vae / "vae.safetensors", {"scale": np.ones(1)})
    write(whole, params)
    for weights, message in [
        ("auto", "encoder.weights=auto: encoder.name=vae takes the workdir of a VAE"),
        ("random", "encoder.weights=random: .*train_vae"),
        (tmp_path / "absent", r"absent: no such workdir; make it with .*train_vae"),
        (tmp_path, r"no vae\.safetensors in it"),
        (no_scale, r"vae\.safetensors: has no number named scale"),
        (no_vae, r"vae\.safetensors: .*no AutoencoderKL"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            build_encoder(EncoderConfig("vae", str(weights)), SIZE)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="image_size=17: vae needs a multiple of 2"):
        build_encoder(EncoderConfig("vae", str(whole)), 17)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("vae.multipliers=", r"vae\.multipliers=\(\)"),
        ("vae.multipliers=1,0", r"vae\.multipliers=0"),
        ("vae_loss.kl_weight=-1", "at least 0"),
    ],
)
def test_options_out_of_range(assignment, message):
    with pytest.raises(UserError, match=message):
        override(CONFIG, [assignment])


def test_sizes_are_told_from_the_file_alone(params, tmp_path):
    """No option of the config that trained it is needed to use it."""
    config = dataclasses.replace(CONFIG, encoder=write(tmp_path, params), vae=VAEConfig())
    assert build_encoder(config.encoder, 2 * SIZE).latent_shape == (16, 16, 2)
