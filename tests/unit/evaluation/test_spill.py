"""Maps and masks in a file: the same to the last bit, without memory, and nothing stays behind."""

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from invad_jax import metrics
from invad_jax.config import TERMS, DataConfig
from invad_jax.data.dataset import Sample
from invad_jax.errors import UserError
from invad_jax.evaluation import ground_truth
from invad_jax.evaluation.evaluate import evaluate
from invad_jax.evaluation.spill import Rows
from invad_jax.normality import calibrations
from invad_jax.scoring import Scores
from tests.tracing import traced

SIDE = 64
SMALL = DataConfig(image_size=SIDE)


class Model:
    """Random maps as large as the images, four at a time; image 1 cannot be read."""

    config = SimpleNamespace(data=SMALL)

    def predict_paths(self, paths, skip_unreadable):
        rng = np.random.default_rng(0)
        for start in range(0, len(paths), 4):
            ids = np.array([i for i in range(start, min(start + 4, len(paths))) if i != 1])
            norm = rng.standard_normal((len(ids), SIDE, SIDE), dtype=np.float32)
            scores = dict.fromkeys(TERMS, norm.max((1, 2)))
            yield (
                ids,
                Scores(
                    **scores, latent_norm=norm, anomaly_map=None, component=np.zeros(len(ids), int)
                ),
            )


@pytest.fixture
def fitted():
    values = {"map_top": np.arange(40.0)}
    return calibrations.fit(
        values, ["a"] * 40, ["a"], ["map_top"], {"a": (1.0, 2.0)}, 0.1, held_out=True
    )


def samples(folder, count):
    """A twentieth of them anomalous, with a mask of 100 pixels."""
    Image.new("RGB", (SIDE, SIDE)).save(folder / "image.png")
    marked = np.zeros((SIDE, SIDE), np.uint8)
    marked[5:15, 5:15] = 255
    Image.fromarray(marked).save(folder / "mask.png")
    mask = (str(folder / "mask.png"),)
    return tuple(
        Sample(str(folder / "image.png"), "nut", "bent", 1, mask)
        if i % 20 == 0
        else Sample(str(folder / "image.png"), "nut", "good", 0)
        for i in range(count)
    )


def all_metrics(result):
    score = {"calibrated": result.image_score["calibrated"]}
    return ground_truth.metric_tables(result.truth, result.latent_norm, score)


def test_numbers_from_a_file_are_those_from_memory(tmp_path, fitted, monkeypatch):
    given = samples(tmp_path, 50)
    memory = evaluate(Model(), fitted, given)
    spilled = evaluate(Model(), fitted, given, tmp_path / "out")
    assert isinstance(spilled.latent_norm, np.memmap)
    assert isinstance(spilled.truth.gt_mask, np.memmap)
    assert not list((tmp_path / "out").iterdir())  # the files have no name
    np.testing.assert_array_equal(spilled.latent_norm, memory.latent_norm)
    np.testing.assert_array_equal(spilled.truth.gt_mask, memory.truth.gt_mask)
    assert len(spilled.samples) == 49
    tables, curves = all_metrics(memory)
    monkeypatch.setattr(metrics, "PART", 3 * SIDE**2)
    its_tables, its_curves = all_metrics(spilled)
    assert its_tables == tables
    np.testing.assert_array_equal(its_curves["nut"].overlap, curves["nut"].overlap)


def test_memory_is_that_of_a_part_and_of_the_anomalous_pixels(tmp_path, fitted, monkeypatch):
    """Counted in bytes that are asked for; a file that is mapped is none of them."""
    monkeypatch.setattr(metrics, "PART", 4 * SIDE**2)
    given, peaks = samples(tmp_path, 400), {}
    for folder in (None, tmp_path):
        with traced() as memory:
            all_metrics(evaluate(Model(), fitted, given, folder))
            peaks[folder] = memory.peak
    maps, masks, anomalous = 4 * 400 * SIDE**2, 400 * SIDE**2, 20 * 100
    assert peaks[None] > maps + masks
    rows = 400 * 500  # what else is known of an image: its terms
    assert peaks[tmp_path] < 2 * 11 * metrics.PART + 110 * anomalous + rows
    assert peaks[tmp_path] < (maps + masks) / 8


def test_rows_that_were_not_written_are_zero_and_kept_ones_move_up(tmp_path):
    for folder in (None, tmp_path / "new"):
        rows = Rows(4, (2, 3), np.float32, folder)
        rows.write(1, np.ones((2, 3)))
        rows.write(3, np.full((2, 3), 3))
        np.testing.assert_array_equal(rows.array[:, 0, 0], [0, 1, 0, 3])
        np.testing.assert_array_equal(rows.keep([1, 3])[:, 0, 0], [1, 3])
        assert Rows(0, (2, 3), bool, folder).array.shape == (0, 2, 3)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    rows = Rows(2, (2,), np.float32, tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        rows.write(0, np.zeros(2))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written: "):
        Rows(1, (2,), np.float32, tmp_path / "file")
