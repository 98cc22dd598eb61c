"""The Python entry around a model that scores by brightness: scores, decisions, percentiles."""

import json
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

import invad_jax
from invad_jax.config import TERMS, Config
from invad_jax.errors import UserError
from invad_jax.inference import predictor
from invad_jax.normality import calibration, calibrations
from invad_jax.runtime.workdir import Workdir
from invad_jax.scoring import Scores

NORMALS = np.arange(1.0, 20.0)  # 19 normal images, brightness 1 to 19


class BrightnessModel:
    """`map_top` is the brightness; batches of 4."""

    config = Config()
    batch_size = 4
    step = 7
    component_names = ("nut", "bolt")
    encoder = None
    made_of: ClassVar = {}
    paradigm = SimpleNamespace(lessons=True, terms=("map_top",))

    def batch_size_for(self, count):
        return min(count, 4)

    def predict(self, image, batch_size=4):
        assert len(image) <= batch_size
        assert image.shape[1:] == (256, 256, 3)
        assert image.dtype == np.uint8
        assert len(image) <= self.batch_size
        value = image.mean(axis=(1, 2, 3)).astype(np.float32)
        norm = np.repeat(value, 4).reshape(-1, 2, 2)
        fields = dict.fromkeys(TERMS, value) | {"latent_norm": norm, "anomaly_map": norm}
        return Scores(**fields, component=(value > 10).astype(int))

    def predict_paths(self, paths, skip_unreadable, of):
        assert skip_unreadable
        assert of in (None, 3)
        scores = self.predict(np.zeros((3, 256, 256, 3), np.uint8))
        yield np.array([2, 0, 1]), scores._replace(nll=np.float32([0, np.nan, np.inf]))


class WithoutScore(BrightnessModel):
    """Of the first image."""

    def predict(self, image, batch_size=4):
        scores = super().predict(image, batch_size)
        scores.map_top[0] = np.nan
        return scores


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Loaded with a median of 10, a scale of 1 and the threshold of a rate of 0.1."""
    fitted = calibration.Calibration(
        terms=(calibration.Term("map_top", 10.0, 1.0),), threshold=8.0, false_positive_rate=0.1,
        guaranteed_false_positive_rate=0.1, num_normals=19, left_out=0,
        heat=(12.0, 18.0), held_out=True,
    )  # fmt: skip
    monkeypatch.setattr(predictor, "load_model", lambda *_: BrightnessModel())
    both = calibrations.Calibrations(("nut", "bolt"), (fitted, fitted))
    monkeypatch.setattr(predictor, "calibrate", lambda *_: both)
    monkeypatch.setattr(Workdir, "resolve", lambda *_: Config())
    monkeypatch.setattr(Workdir, "normals", lambda *_: tmp_path)
    scores = dict.fromkeys(TERMS, NORMALS.tolist() * 2)
    scores["component"] = ["nut"] * len(NORMALS) + ["bolt"] * len(NORMALS)
    scores |= {"heat": {"nut": (12.0, 18.0), "bolt": (12.0, 18.0)}, "held_out": True}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    return invad_jax.load(tmp_path)


def grey(level):
    return np.full((9, 7, 3), level, np.uint8)


def test_scores_decisions_and_percentiles(model):
    results = model.predict([grey(5), grey(18), grey(19), grey(200)])
    np.testing.assert_allclose(results.image_score, [-5, 8, 9, 190])
    assert results.decision.tolist() == [False, False, True, True]  # above 8, not at it
    assert results.threshold.tolist() == [8.0] * 4
    np.testing.assert_allclose(results.normal_percentile, [500 / 19, 1800 / 19, 100, 100])
    assert results.component == ("nut", "bolt", "bolt", "bolt")
    assert results.anomaly_map.shape == (4, 256, 256)
    one = results[1]
    assert isinstance(one, predictor.Prediction)
    assert (one.image_score, one.decision, one.component, one.path) == (8.0, False, "bolt", None)
    assert type(one.decision) is bool
    np.testing.assert_allclose(one.anomaly_map, np.full((256, 256), 18), rtol=1e-6)  # of weights
    assert one.terms == dict.fromkeys(TERMS, 18.0)


def test_any_number_in_batches_and_any_kind(model, tmp_path):
    Image.fromarray(grey(30)).save(tmp_path / "a.png")
    given = [grey(i) for i in range(9)] + [Image.fromarray(grey(20)), tmp_path / "a.png"]
    results = model.predict(iter(given))
    np.testing.assert_allclose(results.image_score, [*range(-10, -1), 10, 20])
    assert results.path == (*[None] * 10, str(tmp_path / "a.png"))
    assert [r.image_score for r in results] == results.image_score.tolist()
    assert results[-1].image_score == 20
    assert results[9:].path == results.path[9:]
    with pytest.raises(IndexError):
        results[11]
    np.testing.assert_allclose(model.predict(np.stack([grey(4), grey(6)])).image_score, [-6, -4])


def test_a_stream_reads_no_further_than_a_batch(model):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield grey(11)

    stream = model.stream(endless())
    assert next(stream).image_score == 1
    assert len(asked) == model.batch_size
    stream.close()


def test_threshold_at_a_rate_is_the_conformal_quantile(model):
    # Of 19 normal scores, -9 to 9 over their spread of 1.4826 times their median deviation, 5: a
    # new one exceeds the k-th largest at a rate of k / 20.
    assert model.threshold_at(0.05, "nut") == pytest.approx(9 / (1.4826 * 5))
    assert model.threshold_at(0.5, "bolt") == 0
    with pytest.raises(UserError, match="between 0 and 1"):
        model.threshold_at(1.5, "nut")
    for unknown in (None, "screw"):
        with pytest.raises(UserError, match="one of nut, bolt"):
            model.threshold_at(0.05, unknown)


def test_nothing_to_score_is_one_line(model):
    for nothing in ([], iter([]), np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(UserError, match="nothing to score"):
            model.predict(nothing)


def test_files_without_a_finite_score_never_come(model):
    ((ids, results),) = model.predict_files(["a", "b", "c"])
    assert ids.tolist() == [2]
    assert results.path == ("c",)


def test_what_the_model_has_is_there(model):
    assert model.step == 7
    with pytest.raises(AttributeError):
        _ = model.no_such_thing


def test_options_that_are_not_calibrated(model, tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError(f"{tmp_path}: not calibrated for these options")

    monkeypatch.setattr(predictor, "calibrate", refuse)
    with pytest.raises(UserError, match="not calibrated"):
        invad_jax.load(tmp_path)
    monkeypatch.setattr(BrightnessModel, "paradigm", SimpleNamespace(lessons=False))
    for_latents = invad_jax.load(tmp_path)  # there is nothing to compare with
    assert for_latents.step == 7
    with pytest.raises(UserError, match="not calibrated"):
        for_latents.predict(grey(1))


def test_an_image_without_a_score_is_not_called_good_and_spoils_no_other(model, monkeypatch):
    monkeypatch.setattr(model, "model", WithoutScore())
    some = np.full((2, 256, 256, 3), 19, np.uint8)
    results = model.predict_squares([None, None], some)
    assert np.isnan(results.image_score[0])
    assert np.isnan(results.normal_percentile[0])
    assert results.decision.tolist() == [True, True]
    assert results.image_score[1] == 9
    assert results.normal_percentile[1] == 100
