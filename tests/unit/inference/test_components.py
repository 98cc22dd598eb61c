"""Components learnt from image files: the same on any number of devices, kept in the workdir."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from invad_jax.config import Config, MeshConfig
from invad_jax.config.io import override
from invad_jax.data.dataset import Sample
from invad_jax.encoders import Encoder
from invad_jax.errors import UserError
from invad_jax.inference import components
from invad_jax.runtime.sharding import make_mesh
from invad_jax.runtime.workdir import Workdir

SIDE, C = 16, 12
CONFIG = override(Config(), [f"data.image_size={SIDE}", "encoder.channels=4", "eval.batch_size=3"])


def patches(variables, image):
    """(B, 8, 8, C): the pixels of each 2 x 2."""
    B = image.shape[0]
    cells = image.astype(jnp.float32).reshape(B, 8, 2, 8, 2, 3)
    return jnp.moveaxis(cells, 3, 2).reshape(B, 8, 8, C) * variables


ENCODER = Encoder("toy", patches, None, np.float32(0.1), (8, 8, C), "toy")


@pytest.fixture
def samples(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for i in range(7):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
        found.append(Sample(str(path), "nut", "good", 0))
    return found


@pytest.mark.parametrize("devices", [1, 8])
def test_moments_on_a_mesh(samples, devices):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    found = components.moments([s.path for s in samples], ENCODER, CONFIG, mesh)
    images = np.stack([np.asarray(Image.open(s.path)) for s in samples])
    vectors = np.asarray(patches(np.float64(0.1), images), np.float64).reshape(-1, C)
    assert found.count == len(vectors) == 7 * 64
    np.testing.assert_allclose(found.mean, vectors.mean(axis=0), rtol=1e-5)  # float32
    expected = np.cov(vectors, rowvar=False, bias=True) * len(vectors)
    # Diagonal entries are about 25,000, of which float32 sums lose 1e-6.
    np.testing.assert_allclose(found.scatter, expected, rtol=1e-4, atol=0.1)


def test_they_are_learnt_once_and_found_again(samples, tmp_path, monkeypatch):
    workdir, mesh = Workdir(tmp_path / "run"), make_mesh(MeshConfig())
    workdir.path.mkdir()
    learnt = components.learn(CONFIG, workdir, ENCODER, samples, mesh)
    assert learnt.latent_shape == (8, 8, 4)
    monkeypatch.setattr(components, "moments", None)  # would fail if it were called
    for again in (
        components.learn(CONFIG, workdir, ENCODER, samples, mesh),
        components.load(CONFIG, workdir, ENCODER),
    ):
        assert again.fingerprint == learnt.fingerprint
    monkeypatch.undo()
    workdir.components.write_bytes(b"damaged")
    again = components.learn(CONFIG, workdir, ENCODER, samples, mesh)
    assert again.fingerprint == learnt.fingerprint  # the same of the same images
    (workdir.checkpoints / "4").mkdir(parents=True)
    with pytest.raises(UserError, match="made with another dataset; restore it"):
        components.learn(CONFIG, workdir, ENCODER, samples[:5], mesh)


def test_without_the_option_nothing_is_learnt(tmp_path):
    plain = dataclasses.replace(CONFIG, encoder=dataclasses.replace(CONFIG.encoder, channels=0))
    assert components.learn(plain, Workdir(tmp_path), ENCODER, [], None) is ENCODER
    assert components.load(plain, Workdir(tmp_path), ENCODER) is ENCODER


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match=r"components\.npz: cannot be read"):
        components.load(CONFIG, Workdir(tmp_path), ENCODER)
