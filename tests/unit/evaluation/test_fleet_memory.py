"""What a fleet holds in memory for each image: bytes, by count (docs/pods.md)."""

import tracemalloc
from types import SimpleNamespace

import pytest

from invad_jax.config import DataConfig
from invad_jax.data.inputs import Found
from invad_jax.data.pipeline import image_batches
from invad_jax.evaluation import fleet, shards

FEW, MANY = 5_000, 25_000
"""Both in shards of a 256th, so that what does not depend on the number falls out."""


class EnoughError(Exception):
    """The first batch was read."""


class Predictor:
    """Notes what is held when the first images have been read, and ends there."""

    def predict_files(self, paths, of):
        next(image_batches(paths, DataConfig(image_size=8), 16, skip_unreadable=True))
        self.held = tracemalloc.get_traced_memory()[0]
        raise EnoughError


def held_and_peak(count, folder, monkeypatch):
    """Bytes held while `count` images are scored, and at most while they are listed."""
    each = (Found(f"/absent/{i:08}.png", f"{i:08}.png") for i in range(count))
    monkeypatch.setattr(shards.inputs, "each", lambda *_: each)
    peak, predictor = [], Predictor()
    begin = shards.begin

    def begun(*given):
        job = begin(*given)
        peak.append(tracemalloc.get_traced_memory()[1])
        return job

    monkeypatch.setattr(shards, "begin", begun)
    tracemalloc.start()
    try:
        drawer = SimpleNamespace(out=None)
        with pytest.raises(EnoughError):
            fleet.predict(folder, {"format": "csv"}, ["photos"], predictor, drawer, None)
    finally:
        tracemalloc.stop()
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
