"""An encoder of one's own, added the way CONTRIBUTING says: a module and a line in `ENCODERS`."""

import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax import encoders
from invad_jax.config import Config, DataConfig, DenoiserConfig, EncoderConfig, ScoringConfig
from invad_jax.detector import DetectorVariables, LatentStats
from invad_jax.encoders import build_encoder
from invad_jax.encoders.backbone import Backbone, resolve_stages
from invad_jax.errors import UserError
from invad_jax.inference.assembly import abstract_params, build_detector
from invad_jax.io.tensor_reader import TensorReader
from invad_jax.io.tensors import write_tensors

PAGE = Path(__file__).resolve().parents[3] / "docs" / "encoders.md"
NAMES = tuple(encoders.ENCODERS)

# --- what invad_jax/encoders/toy.py would hold: each patch of 8 x 8 pixels times a matrix

PATCH, CHANNELS = 8, 5


def _features(variables, image):
    B, S, _, _ = image.shape
    patches = image.reshape(B, S // PATCH, PATCH, S // PATCH, PATCH, 3)
    return [jnp.einsum("bipjqc,pqcd->bijd", patches, variables["kernel"])]


def _convert(tensors):
    reader = TensorReader(tensors)
    weight = reader.filled("patch.weight", (CHANNELS, 3, PATCH, PATCH))
    reader.finish()
    return {"kernel": weight.transpose(2, 3, 1, 0).astype(np.float32)}


def _build_backbone(config, image_size):
    return Backbone(
        features=_features,
        abstract={"kernel": jax.ShapeDtypeStruct((PATCH, PATCH, 3, CHANNELS), np.float32)},
        convert=_convert,
        stages=resolve_stages(config.stages, (0,), 1),
        mean=(100.0, 110.0, 120.0),
        std=(50.0, 60.0, 70.0),
    )


toy = types.SimpleNamespace(VARIANTS=("toy",), build_backbone=_build_backbone)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The line in `encoders/__init__.py`."""
    for name in toy.VARIANTS:
        monkeypatch.setitem(encoders.ENCODERS, name, toy.build_backbone)


@pytest.fixture
def weights(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(CHANNELS, 3, PATCH, PATCH)).astype(np.float32)
    write_tensors(tmp_path / "toy.safetensors", {"patch.weight": weight})
    return tmp_path / "toy.safetensors", weight


@pytest.fixture
def image():
    return np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)


def test_its_latent_is_what_its_formula_says(weights, image):
    path, weight = weights
    encoder = build_encoder(EncoderConfig(name="toy", weights=str(path)), image_size=32)
    assert encoder.latent_shape == (4, 4, CHANNELS)
    latent = np.asarray(encoder.apply(encoder.variables, image))
    patch = image[1, 8:16, 24:32].astype(np.float64)
    patch = (patch - [100, 110, 120]) / [50, 60, 70]
    expected = [np.sum(patch * kernel.transpose(1, 2, 0)) for kernel in weight.astype(np.float64)]
    # sums of 192 float32 products of size about 1
    np.testing.assert_allclose(latent[1, 1, 3], expected, atol=1e-4)


def test_it_makes_a_detector(weights, image):
    config = Config(
        data=DataConfig(image_size=32),
        encoder=EncoderConfig(name="toy", weights=str(weights[0]), pool=2),
        denoiser=DenoiserConfig(name="mlp", width=16, depth=1),
        scoring=ScoringConfig(prior="standard_normal"),
    )
    encoder = build_encoder(config.encoder, config.data.image_size)
    assert encoder.latent_shape == (2, 2, CHANNELS)
    rng = np.random.default_rng(2)  # fresh parameters would predict 0 for every image
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32),
        abstract_params(config, encoder.latent_shape),
    )
    stats = LatentStats(jnp.zeros(CHANNELS), jnp.ones(CHANNELS))
    variables = DetectorVariables(encoder.variables, params, stats)
    detector = build_detector(config, encoder.latent_shape, encoder.apply)
    scores = jax.jit(detector.predict)(variables, image)
    assert scores.anomaly_map.shape == (2, 32, 32)
    assert np.all(np.isfinite(scores.anomaly_map))
    assert scores.nll[0] != scores.nll[1]


def test_its_products_are_of_float32_on_every_device(weights, image):
    """TPUs and GPUs take shorter ones unless they are told."""
    encoder = build_encoder(EncoderConfig(name="toy", weights=str(weights[0])), 32)
    program = jax.make_jaxpr(encoder.apply)(encoder.variables, image)
    products = [e for e in program.eqns if e.primitive.name == "dot_general"]
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert [product.params["precision"] for product in products] == [highest]


def test_what_every_encoder_gets_for_nothing(weights, tmp_path):
    """Random weights, refusals in one line, a fingerprint of the weights."""
    path, _ = weights
    one, other = (
        build_encoder(EncoderConfig(name="toy", weights=w), 32) for w in (str(path), "random")
    )
    assert one.fingerprint != other.fingerprint
    write_tensors(tmp_path / "bad.safetensors", {"patch.bias": np.zeros(3, np.float32)})
    for assignment, expected in (
        ({"weights": str(tmp_path / "bad.safetensors")}, "unexpected: patch.bias"),
        ({"weights": "auto"}, "toy has no published weights"),
        ({"stages": (1,)}, "encoder.stages=1: expected rising block indices"),
        ({"name": "toi"}, "did you mean toy"),
    ):
        with pytest.raises(UserError) as error:
            build_encoder(EncoderConfig(**{"name": "toy", **assignment}), 32)
        assert expected in str(error.value)
        assert "\n" not in str(error.value)


def test_every_encoder_has_its_row_in_the_docs():
    rows = re.findall(r"^\| `(\w+)` .* \| ([\d x]+) \| [\d.]+ \| [\d.]+ \|", PAGE.read_text(), re.M)
    # `vae` has the sizes of a workdir and is described below the table
    assert [name for name, _ in rows] == [name for name in NAMES if name != "vae"]
    assert dict(rows)["efficientnet_b4"] == "16 x 16 x 272"  # the paper's
