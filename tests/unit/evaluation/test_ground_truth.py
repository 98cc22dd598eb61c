"""Metrics of several scores held against one ground truth."""

import numpy as np
import pytest
from PIL import Image

from invad_jax.config import DataConfig
from invad_jax.data.dataset import Sample
from invad_jax.evaluation import ground_truth
from invad_jax.metrics import PIXEL_METRICS

sklearn_metrics = pytest.importorskip("sklearn.metrics")
SIZE = 16


@pytest.fixture
def samples(tmp_path):
    """Category `nut` with masks; `pin`, one of whose anomalous images has none."""
    rng = np.random.default_rng(0)
    made = []
    for category in ("nut", "pin"):
        for i in range(6):
            path, mask_path = (tmp_path / f"{category}_{i}{end}.png" for end in ("", "_mask"))
            Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(path)
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[2 : 5 + i, 3:7] = 255
            Image.fromarray(mask).save(mask_path)
            known = i % 2 and not (category == "pin" and i == 1)
            defect = "bent" if i % 2 else "good"
            made.append(
                Sample(str(path), category, defect, i % 2, (str(mask_path),) if known else ())
            )
    return tuple(made)


def test_masks_of_normals_are_empty_and_known(samples):
    truth = ground_truth.read(samples, DataConfig(image_size=SIZE))
    assert truth.has_mask.tolist() == [True] * 7 + [False] + [True] * 4
    assert truth.gt_mask.sum((1, 2)).tolist() == [0, 16, 0, 24, 0, 32, 0, 0, 0, 24, 0, 32]


@pytest.mark.parametrize(("value", "word"), [(0, "nothing"), (255, "everything")])
def test_a_mask_that_tells_nothing_is_named_and_takes_no_part(samples, caplog, value, word):
    path = samples[3].mask_paths[0]
    Image.fromarray(np.full((SIZE, SIZE), value, np.uint8)).save(path)
    truth = ground_truth.read(samples, DataConfig(image_size=SIZE))
    assert truth.has_mask.tolist() == [True] * 3 + [False] + [True] * 3 + [False] + [True] * 4
    assert not truth.gt_mask[3].any()
    (record,) = caplog.records
    assert f"1 masks of anomalous images mark {word}" in record.getMessage()
    assert path in record.getMessage()
    counts = ground_truth.mask_counts(truth)
    assert counts == {"nut": {"with": 2, "without": 1}, "pin": {"with": 2, "without": 1}}
    assert ground_truth.mask_note(counts).startswith("images: 4 with masks, 2 without (nut 1, pin")


def test_everything_of_a_letterbox_is_what_the_image_fills(samples, caplog):
    for sample in samples:
        Image.new("RGB", (SIZE, SIZE // 2)).save(sample.path)
        for path in sample.mask_paths:
            mask = np.full((SIZE // 2, SIZE), 255, np.uint8)
            mask[:, : 0 if sample is samples[3] else 9] = 0
            Image.fromarray(mask).save(path)
    truth = ground_truth.read(samples, DataConfig(image_size=SIZE, aspect="letterbox"))
    assert truth.has_mask.tolist() == [True] * 3 + [False] + [True] * 3 + [False] + [True] * 4
    assert "1 masks of anomalous images mark everything" in caplog.text


def test_every_score_has_its_image_metrics_and_all_share_the_pixels(samples):
    rng = np.random.default_rng(1)
    truth = ground_truth.read(samples, DataConfig(image_size=SIZE))
    anomaly_map = rng.random((12, SIZE, SIZE), np.float32) + 0.5 * truth.gt_mask
    scores = {"one": rng.random(12), "two": rng.random(12)}
    tables, curves = ground_truth.metric_tables(truth, anomaly_map.astype(np.float32), scores)
    label = np.array([sample.gt_label for sample in samples])
    for kind, score in scores.items():
        for category, rows in {"nut": np.arange(6), "pin": np.arange(6, 12)}.items():
            expected = sklearn_metrics.roc_auc_score(label[rows], score[rows])
            assert tables[kind]["categories"][category]["i_auroc"] == pytest.approx(expected)
        known = [6, 8, 9, 10, 11]  # the anomalous image without a mask takes no part
        expected = sklearn_metrics.roc_auc_score(
            truth.gt_mask[known].ravel(), anomaly_map[known].ravel()
        )
        assert tables[kind]["categories"]["pin"]["p_auroc"] == pytest.approx(expected)
    pixel = [[t["mean"][name] for name in PIXEL_METRICS] for t in tables.values()]
    assert pixel[0] == pixel[1]
    assert list(curves) == ["nut", "pin"]
