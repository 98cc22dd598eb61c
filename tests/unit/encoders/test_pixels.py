"""The encoder that is none: the image itself, from no file."""

import urllib.request

import numpy as np
import pytest

from invad_jax.config import Config, EncoderConfig
from invad_jax.doctor import _say_weights
from invad_jax.encoders import build_encoder, kept
from invad_jax.errors import UserError
from invad_jax.inference.packing import _licences
from invad_jax.runtime.workdir import Workdir


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("something is fetched")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("weights", ["auto", "random"])
def test_a_latent_is_the_image_in_minus_one_to_one(weights):
    encoder = build_encoder(EncoderConfig("pixels", weights), 32)
    assert encoder.latent_shape == (32, 32, 3)
    assert encoder.fingerprint == build_encoder(EncoderConfig("pixels"), 32).fingerprint
    image = np.arange(2 * 32 * 32 * 3, dtype=np.uint8).reshape(2, 32, 32, 3)
    latent = np.asarray(encoder.apply(encoder.variables, image))
    assert latent.dtype == np.float32
    assert (latent.min(), latent.max()) == (-1, 1)
    # The compiler multiplies by 1 / 127.5: a unit in the last place.
    np.testing.assert_allclose(latent, (image / 127.5) - 1, rtol=0, atol=2**-23)


def test_nothing_is_kept_in_a_workdir(tmp_path):
    config, folder = EncoderConfig("pixels"), tmp_path / "run" / "encoder"
    kept.keep(config, folder)
    assert not folder.exists()
    assert kept.options(config, folder) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "w.pth"}, "encoder.weights=w.pth: expected none; encoder.name=pixels is the"),
        ({"stages": (0, 2)}, "encoder.stages=0,2: expected none; .* has no stages"),
    ],
)
def test_what_only_a_network_has_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        build_encoder(EncoderConfig("pixels", **options), 32)


def test_nobody_is_sent_for_weights(capsys, tmp_path):
    _say_weights("pixels")
    assert capsys.readouterr().out.endswith("encoder pixels: needs no weights\n")
    licences = _licences(Workdir(tmp_path), Config(encoder=EncoderConfig("pixels")))
    assert [what for what in licences if "weights" in what] == []
