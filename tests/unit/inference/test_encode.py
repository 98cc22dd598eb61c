"""Latents are kept for the pixels that were encoded, not for the file alone."""

import numpy as np
from PIL import Image

from invad_jax.config import Config, DataConfig, MeshConfig
from invad_jax.data.dataset import Sample
from invad_jax.encoders import Encoder
from invad_jax.inference.encode import encode_samples
from invad_jax.runtime.sharding import make_mesh

PIXELS = Encoder(
    name="pixels",
    apply=lambda variables, image: image[..., :1].astype(np.float32),
    features=lambda variables, image: [],
    variables={},
    latent_shape=(4, 4, 1),
    fingerprint="pixels",
)


def test_another_range_of_pixels_is_another_latent(tmp_path, monkeypatch):
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path / "cache"))
    values = np.arange(16, dtype=np.uint16).reshape(4, 4) * 255
    Image.fromarray(values).save(tmp_path / "a.png")
    samples = [Sample(str(tmp_path / "a.png"), "nut", "good", 0)]
    for white in (255 * 15, 65535, 255 * 15):
        config = Config(data=DataConfig(image_size=4, value_range=(0.0, float(white))))
        latents = np.asarray(encode_samples(samples, PIXELS, config, make_mesh(MeshConfig())))
        np.testing.assert_array_equal(latents[0, ..., 0], np.rint(values * (255 / white)))
    assert len(list((tmp_path / "cache" / "latents").iterdir())) == 2
