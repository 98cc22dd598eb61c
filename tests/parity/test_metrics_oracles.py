"""Every metric against scikit-learn, and AUPRO against a loop over all thresholds."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from invad_jax import metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="the oracle; pip install .[test]")

EXACT = 1e-9  # both sides are float64 sums of at most a few hundred terms of size <= 1
FEW = settings(max_examples=150, derandomize=True)

finite = st.floats(-(2.0**90), 2.0**90, width=32)
# few distinct values, so that most scores tie, also across the classes; or any at all
scores = st.sampled_from([st.integers(0, 3).map(float), st.integers(-9, 9).map(float), finite])


@st.composite
def images(draw):
    """(anomaly_map, gt_mask), tiny, of any aspect."""
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=6))
    anomaly_map = draw(hnp.arrays(np.float32, shape, elements=draw(scores)))
    return anomaly_map, draw(hnp.arrays(bool, shape))


def f1_max(label, score):
    precision, recall, _ = sklearn_metrics.precision_recall_curve(label, score)
    return np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))


def flood(mask):
    """The 8-connected regions of one mask, each as a set of positions, by flooding."""
    left = set(zip(*np.nonzero(mask), strict=True))
    regions = []
    while left:
        region, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            border.extend(near)
        regions.append(region)
    return regions


def brute_force_aupro(anomaly_map, gt_mask, limit):
    """Mean overlap and false-positive rate at every threshold, joined by straight lines."""
    regions = [(n, sorted(r)) for n, mask in enumerate(gt_mask) for r in flood(mask)]
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(anomaly_map.ravel().tolist()), reverse=True):
        found = anomaly_map >= threshold
        overlap = np.mean([np.mean([found[n, y, x] for y, x in r]) for n, r in regions])
        curve.append((found[~gt_mask].mean(), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 >= limit:
            break
        if x1 > limit:  # cut the segment at the limit
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


DIAGONAL = np.eye(4, dtype=bool)[None]
RAMP = np.arange(16, dtype=np.float32).reshape(1, 4, 4)


@FEW
@given(images(), st.sampled_from([0.3, 0.05, 1.0]))
@example((RAMP, DIAGONAL), 0.3)  # touching corners: one region
@example((RAMP, DIAGONAL | np.eye(4, dtype=bool)[None, ::-1]), 0.3)
@example((np.zeros((2, 3, 3), np.float32), np.arange(18).reshape(2, 3, 3) % 4 == 0), 0.3)  # all tie
@example((np.stack([RAMP[0], -RAMP[0]]), np.stack([RAMP[0] >= 0, RAMP[0] < 0])), 0.3)  # one full
@example((RAMP, RAMP == 15), 0.3)
@example((np.float32([[[0, 1]]]), np.array([[[False, True]]])), 0.3)
def test_pixel_metrics(case, limit):
    anomaly_map, gt_mask = case
    found = metrics.pixel_metrics(anomaly_map, gt_mask, fpr_limit=limit)
    if gt_mask.all() or not gt_mask.any():
        assert found == dict.fromkeys(metrics.PIXEL_METRICS)
        return
    label, score = gt_mask.ravel(), anomaly_map.ravel()
    expected = {
        "p_auroc": sklearn_metrics.roc_auc_score(label, score),
        "p_ap": sklearn_metrics.average_precision_score(label, score),
        "p_f1_max": f1_max(label, score),
        "aupro": brute_force_aupro(anomaly_map, gt_mask, limit),
    }
    assert found == pytest.approx(expected, abs=EXACT, rel=0)
    assert all(0 <= value <= 1 for value in found.values())


@FEW
@given(st.data())
def test_image_metrics(data):
    label = data.draw(hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 1)))
    score = data.draw(hnp.arrays(np.float64, len(label), elements=data.draw(scores)))
    found = metrics.image_metrics(score, label)
    if len(set(label.tolist())) == 1:
        assert found == dict.fromkeys(metrics.IMAGE_METRICS)
        return
    expected = {
        "i_auroc": sklearn_metrics.roc_auc_score(label, score),
        "i_ap": sklearn_metrics.average_precision_score(label, score),
        "i_f1_max": f1_max(label, score),
    }
    assert found == pytest.approx(expected, abs=EXACT, rel=0)


def test_a_realistic_category_is_scikit_learns():
    rng = np.random.default_rng(0)
    gt_mask = np.zeros((6, 64, 64), bool)
    gt_mask[0, 5:20, 8:15] = gt_mask[1, 40:50, 40:60] = gt_mask[1, 2:4, 2:4] = True
    anomaly_map = rng.gamma(2, size=gt_mask.shape).astype(np.float32) + gt_mask
    found = metrics.pixel_metrics(anomaly_map, gt_mask)
    label, score = gt_mask.ravel(), anomaly_map.ravel()
    expected = {
        "p_auroc": sklearn_metrics.roc_auc_score(label, score),
        "p_ap": sklearn_metrics.average_precision_score(label, score),
        "p_f1_max": f1_max(label, score),
        "aupro": weighted_roc_aupro(anomaly_map, gt_mask),
    }
    assert found == pytest.approx(expected, abs=EXACT, rel=0)


def weighted_roc_aupro(anomaly_map, gt_mask):
    """AUPRO as scikit-learn's weighted ROC curve: each region's pixels share the weight 1."""
    weight = np.ones(gt_mask.shape)
    for n, mask in enumerate(gt_mask):
        for region in flood(mask):
            weight[(n, *np.transpose(sorted(region)))] = 1 / len(region)
    fpr, overlap, _ = sklearn_metrics.roc_curve(
        gt_mask.ravel(), anomaly_map.ravel(), sample_weight=weight.ravel(), drop_intermediate=False
    )
    inside = fpr <= 0.3
    x = np.append(fpr[inside], 0.3)
    y = np.append(overlap[inside], np.interp(0.3, fpr, overlap))
    return np.trapezoid(y, x) / 0.3
