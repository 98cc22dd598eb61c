"""A test set of which not everything can be read: the rest is scored, and what is lost is named."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from invad_jax.config import TERMS, DataConfig
from invad_jax.data.dataset import Sample
from invad_jax.errors import UserError
from invad_jax.evaluation import ground_truth
from invad_jax.evaluation.evaluate import evaluate
from invad_jax.normality import calibrations
from invad_jax.scoring import Scores

SAMPLES = tuple(
    Sample(f"{i}.png", "nut", "good" if i < 2 else "crack", int(i > 1)) for i in range(4)
)


class Model:
    """Scores image i with 10 i, in batches that come in another order; some cannot be read."""

    config = SimpleNamespace(data=DataConfig(image_size=8))

    def __init__(self, batches):
        self.batches = batches

    def predict_paths(self, paths, skip_unreadable):
        assert skip_unreadable
        for ids in self.batches:
            value = 10 * np.float32(ids)
            norm = np.repeat(value, 4).reshape(-1, 2, 2)
            scores = dict.fromkeys(TERMS, value) | {"latent_norm": norm, "anomaly_map": norm}
            yield np.array(ids, int), Scores(**scores, component=np.array(ids, int) % 2)


@pytest.fixture
def fitted():
    values = {"map_top": np.arange(40.0)}
    names = ["a", "b"]
    heat = dict.fromkeys(names, (1.0, 2.0))
    return calibrations.fit(values, names * 20, names, ["map_top"], heat, 0.1, held_out=True)


def test_rows_come_in_the_order_of_the_samples(fitted):
    result = evaluate(Model([[3, 1], [0, 2]]), fitted, SAMPLES)
    assert result.samples == SAMPLES
    np.testing.assert_array_equal(result.terms["nll"], [0, 10, 20, 30])
    np.testing.assert_array_equal(result.latent_norm[:, 0, 0], [0, 10, 20, 30])
    assert result.component.tolist() == [0, 1, 0, 1]
    assert result.unreadable == []


def test_an_image_without_a_score_is_left_out_and_named(fitted, monkeypatch, caplog):
    """None of it takes part."""
    predict = Model.predict_paths

    def with_a_gap(self, *given, **named):
        for ids, scores in predict(self, *given, **named):
            gone = {name: np.where(ids == 2, np.nan, getattr(scores, name)) for name in TERMS}
            yield ids, scores._replace(**gone)

    monkeypatch.setattr(Model, "predict_paths", with_a_gap)
    result = evaluate(Model([[3, 1], [0, 2]]), fitted, SAMPLES)
    assert [sample.path for sample in result.samples] == ["0.png", "1.png", "3.png"]
    np.testing.assert_array_equal(result.latent_norm[:, 0, 0], [0, 10, 30])
    assert result.unreadable == ["2.png"]
    assert "2.png: has no finite score" in caplog.text


def test_unreadable_images_are_left_out_and_named(fitted):
    result = evaluate(Model([[3], [0], []]), fitted, SAMPLES)
    assert [sample.path for sample in result.samples] == ["0.png", "3.png"]
    np.testing.assert_array_equal(result.terms["map_top"], [0, 30])
    assert result.gt_label.tolist() == [0, 1]
    assert result.unreadable == ["1.png", "2.png"]
    assert len(result.truth.gt_mask) == len(result.image_score["calibrated"]) == 2


def test_a_test_set_without_a_readable_image_is_refused(fitted):
    with pytest.raises(UserError, match=r"0\.png: cannot be read or has no score.* any other of 4"):
        evaluate(Model([[]]), fitted, SAMPLES)


def test_a_mask_that_cannot_be_used_leaves_its_image_without_one(tmp_path, caplog):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    good = np.zeros((8, 8), np.uint8)
    good[2, 2] = 255
    Image.fromarray(good).save(tmp_path / "good.png")
    Image.fromarray(good[:4]).save(tmp_path / "small.png")
    (tmp_path / "damaged.png").write_bytes(b"no image")
    names = ("good", "small", "damaged", "missing")
    samples = [
        Sample(str(tmp_path / "image.png"), "nut", "crack", 1, (str(tmp_path / f"{name}.png"),))
        for name in names
    ]
    truth = ground_truth.read(samples, DataConfig(image_size=8))
    assert truth.has_mask.tolist() == [True, False, False, False]
    assert truth.gt_mask.sum() == 1
    assert "3 masks cannot be used" in caplog.text
    assert ground_truth.mask_counts(truth) == {"nut": {"with": 1, "without": 3}}
