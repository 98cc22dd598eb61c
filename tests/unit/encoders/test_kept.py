"""The encoder's weights in a workdir: a copy that may be made, or what is to be brought."""

import hashlib
import json

import numpy as np
import pytest

from invad_jax.config import EncoderConfig
from invad_jax.encoders import kept, sources, weights
from invad_jax.errors import UserError
from invad_jax.io.tensors import read_tensors, write_tensors

TENSORS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.array(3)}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A file at its authors', of a fetched encoder `some`."""
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "some-1234.pth"
    write_tensors(path, TENSORS)
    monkeypatch.setitem(sources.SOURCES, "some", sources.UrlSource(path.as_uri(), "", "CC0"))
    return path


def test_what_is_fetched_is_copied_and_then_used_without_a_network(published, tmp_path):
    config, folder = EncoderConfig("some"), tmp_path / "run" / "encoder"
    kept.keep(config, folder)
    published.unlink()
    found = kept.options(config, folder)
    path = weights.source_file("some", found.weights)
    assert path == folder / "some.safetensors"
    tensors = read_tensors(path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], tensor, strict=True)


def test_other_weights_may_still_be_asked_for(published, tmp_path):
    folder = tmp_path / "encoder"
    kept.keep(EncoderConfig("some"), folder)
    other = EncoderConfig("some", weights=str(published))
    assert kept.options(other, folder) == other
    assert kept.options(EncoderConfig("some", weights="random"), folder).weights == "random"


def test_a_second_time_nothing_is_written(published, tmp_path):
    folder = tmp_path / "encoder"
    kept.keep(EncoderConfig("some"), folder)
    before = (folder / "some.safetensors").stat().st_mtime_ns
    kept.keep(EncoderConfig("some"), folder)
    assert (folder / "some.safetensors").stat().st_mtime_ns == before


def test_a_file_of_the_users_is_only_described(tmp_path):
    given, folder = tmp_path / "licensed.pth", tmp_path / "encoder"
    write_tensors(given, TENSORS)
    config = EncoderConfig("dinov3_vits16", weights=str(given))
    kept.keep(config, folder)
    assert [path.name for path in folder.iterdir()] == ["source.json"]
    digest = hashlib.sha256(given.read_bytes()).hexdigest()
    assert json.loads((folder / "source.json").read_text())["sha256"] == digest
    assert kept.options(config, folder) == config
    given.unlink()
    with pytest.raises(UserError, match=rf"licensed\.pth of SHA-256 {digest}, .* bring it"):
        kept.options(config, folder)


@pytest.mark.parametrize(("origin", "copied"), [({}, True), ({"converted_from": "x"}, False)])
def test_a_vae_of_ones_own_is_copied(tmp_path, origin, copied):
    vae, folder = tmp_path / "vae", tmp_path / "encoder"
    write_tensors(vae / "vae.safetensors", TENSORS)
    (vae / "vae.json").write_text(json.dumps(origin))
    config = EncoderConfig("vae", weights=str(vae))
    kept.keep(config, folder)
    assert (folder / "vae.safetensors").is_file() is copied
    assert (kept.options(config, folder).weights == str(folder)) is copied


def test_random_weights_are_nothing_to_keep(tmp_path):
    config = EncoderConfig(weights="random")
    kept.keep(config, tmp_path / "encoder")
    assert list(tmp_path.iterdir()) == []
    assert kept.options(config, tmp_path / "encoder") == config


def test_a_copy_stays_as_long_as_it_is_of_the_same_weights(published, tmp_path):
    folder = tmp_path / "run" / "encoder"
    copy = folder / "some.safetensors"
    kept.keep(EncoderConfig("some"), folder)
    kept.keep(EncoderConfig("some", weights=str(published)), folder)  # the same, elsewhere
    assert copy.is_file()
    noted = (folder / "source.json").read_bytes()
    kept.keep(EncoderConfig("some", weights=str(folder)), folder)  # the copy itself
    assert copy.is_file()
    assert (folder / "source.json").read_bytes() == noted
    write_tensors(published, TENSORS | {"w": np.zeros((2, 3), np.float32)})
    kept.keep(EncoderConfig("some", weights=str(published)), folder)  # may not be copied
    assert not copy.exists()
