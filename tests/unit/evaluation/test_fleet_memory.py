"""What a fleet holds in memory for each image: bytes, by count (docs/pods.md)."""

from types import SimpleNamespace

import pytest

from invad_jax.config import DataConfig
from invad_jax.data.inputs import Found
from invad_jax.data.pipeline import image_batches
from invad_jax.evaluation import fleet, shards
from tests.tracing import Traced, traced

FEW, MANY = 5_000, 45_000
"""Both in shards of a 256th, so that what does not depend on the number falls out."""


class EnoughError(Exception):
    """The first batch was read."""


class Predictor:
    """Notes what is held when the first images have been read, and ends there."""

    def predict_files(self, paths, of):
        batches = image_batches(paths, DataConfig(image_size=8), 16, skip_unreadable=True)
        next(batches)  # and more are to come: what the pipeline holds is held
        self.held = Traced().held
        batches.close()
        raise EnoughError


def held_and_peak(count, folder, monkeypatch):
    """Bytes held while `count` images are scored, and at most while they are listed."""
    each = (Found(f"/absent/{i:08}.png", f"{i:08}.png") for i in range(count))
    monkeypatch.setattr(shards.inputs, "each", lambda *_: each)
    peak, predictor = [], Predictor()
    begin = shards.begin

    def begun(*given):
        job = begin(*given)
        peak.append(Traced().peak)
        return job

    monkeypatch.setattr(shards, "begin", begun)
    drawer = SimpleNamespace(out=None)
    with traced(), pytest.raises(EnoughError):
        fleet.predict(folder, {"format": "csv"}, ["photos"], predictor, drawer, None)
    monkeypatch.undo()
    return predictor.held, peak[0]


def test_a_process_holds_thirty_bytes_an_image_and_the_first_eighty_while_it_lists(
    tmp_path, monkeypatch
):
    held_and_peak(FEW, tmp_path / "first", monkeypatch)  # what is made only once
    few, many = (held_and_peak(n, tmp_path / str(n), monkeypatch) for n in (FEW, MANY))
    held, peak = ((b - a) / (MANY - FEW) for a, b in zip(few, many, strict=True))
    print(f"{held:.1f} bytes held for each image, {peak:.1f} at most while they are listed")
    # Rows, places of those that can be read, rows of these: 8 bytes each; and 4 in the batches.
    assert 26 < held < 31
    assert 60 < peak < 81
