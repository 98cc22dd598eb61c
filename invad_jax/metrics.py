"""Exact detection metrics: every distinct score is a threshold; nothing is binned or sampled.

All of them are read off one polygon, the receiver operating characteristic (`_Curve`): the normal
scores are sorted once, the anomalous ones are sorted once and looked up among them. Only
thresholds at which something anomalous is found are vertices, so that beyond its inputs a pixel
metric holds about 6 bytes a normal pixel and 110 bytes an anomalous pixel (of which there are few):
17.5 million pixels, 3 % of them anomalous, take under 200 MB and a few seconds.

Values lie in [0, 1]. A metric that is undefined (one class only, no masks) is None, never 0.
Read next: `report/tables.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

IMAGE_METRICS = ("i_auroc", "i_ap", "i_f1_max")
PIXEL_METRICS = ("p_auroc", "p_ap", "p_f1_max", "aupro")

_EIGHT_CONNECTED = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Metrics:
    """One row of a results table: a category, or the mean over categories."""

    i_auroc: float | None
    i_ap: float | None
    i_f1_max: float | None
    p_auroc: float | None
    p_ap: float | None
    p_f1_max: float | None
    aupro: float | None
    mad: float | None
    """Mean of the seven above; None if any of them is."""
    n_normal: int
    """Images."""
    n_anomalous: int
    """Images."""


def category_metrics(
    image_score: np.ndarray,
    gt_label: np.ndarray,
    anomaly_map: np.ndarray | None = None,
    gt_mask: np.ndarray | None = None,
    has_mask: np.ndarray | None = None,
) -> Metrics:
    """All metrics of one category.

    Where the same maps go with several image scores, call `pixel_metrics` once, and `combine` it
    with the `image_metrics` of each score.

    Args:
      image_score: (N,) float, higher is more anomalous.
      gt_label: (N,) 0 normal, 1 anomalous.
      anomaly_map: (N, H, W) float32; None leaves the pixel metrics out.
      gt_mask: (N, H, W) bool; None leaves the pixel metrics out.
      has_mask: (N,) bool, which images have a mask. Normal images need none: all their pixels are
        normal. Anomalous images without one take no part in the pixel metrics. None: all have one.

    Raises:
      ValueError: a score is not finite, a label is not 0 or 1, or shapes disagree.

    >>> row = category_metrics(np.array([0.1, 0.4, 0.3, 0.9]), np.array([0, 0, 1, 1]))
    >>> row.i_auroc, row.aupro
    (0.75, None)
    """
    image = image_metrics(image_score, gt_label)
    pixel: dict[str, float | None] = dict.fromkeys(PIXEL_METRICS)
    if anomaly_map is not None and gt_mask is not None:
        known = None if has_mask is None else np.asarray(has_mask, bool) | (gt_label == 0)
        pixel = pixel_metrics(anomaly_map, gt_mask, known)
    return combine(image, pixel, gt_label)


def image_metrics(image_score: np.ndarray, gt_label: np.ndarray) -> dict[str, float | None]:
    """AUROC, average precision and F1-max of whole images.

    Args:
      image_score: (N,) float, higher is more anomalous.
      gt_label: (N,) 0 normal, 1 anomalous.

    Returns:
      `IMAGE_METRICS` by name; all None where only one class is there.

    Raises:
      ValueError: a score is not finite, a label is not 0 or 1, or shapes disagree.
    """
    if not np.isin(gt_label, (0, 1)).all():
        raise ValueError("gt_label holds values other than 0 and 1")
    positive = np.asarray(gt_label, bool)
    _check(image_score, positive)
    if positive.all() or not positive.any():
        return dict.fromkeys(IMAGE_METRICS)
    curve = _curve(image_score, positive, np.ones(positive.sum()))
    return {
        "i_auroc": _auroc(curve),
        "i_ap": _average_precision(curve),
        "i_f1_max": _f1_max(curve),
    }


class PerRegionOverlap(NamedTuple):
    """Points of the curve whose area is AUPRO, (n,) each, both rising."""

    fpr: np.ndarray
    """Share of the normal pixels at or above a threshold, 0..`fpr_limit`."""
    overlap: np.ndarray
    """Mean over the anomalous regions of the share of each that lies there, 0..1."""


def pixel_metrics(
    anomaly_map: np.ndarray,
    gt_mask: np.ndarray,
    known: np.ndarray | None = None,
    fpr_limit: float = 0.3,
) -> dict[str, float | None]:
    """The metrics of `pixel_metrics_and_curve` alone."""
    return pixel_metrics_and_curve(anomaly_map, gt_mask, known, fpr_limit)[0]


def pixel_metrics_and_curve(
    anomaly_map: np.ndarray,
    gt_mask: np.ndarray,
    known: np.ndarray | None = None,
    fpr_limit: float = 0.3,
    points: int = 100,
) -> tuple[dict[str, float | None], PerRegionOverlap | None]:
    """AUROC, average precision and F1-max over all pixels of all images, and AUPRO; its curve.

    AUPRO (Bergmann et al. 2019, MVTec AD, section 5.1) is the area under the mean overlap of the
    anomalous regions against the false-positive rate of the pixels, up to `fpr_limit` and divided
    by it; the curve is linear between thresholds. A region is an 8-connected part of one mask.

    Args:
      anomaly_map: (N, H, W) float32, higher is more anomalous.
      gt_mask: (N, H, W) bool.
      known: (N,) bool, the images whose ground truth is known; the others are left out. None: all.
      fpr_limit: in (0, 1].
      points: of the curve, which is for the eye; the metrics are exact.

    Returns:
      `PIXEL_METRICS` by name, and the curve; all None where pixels of one class are missing.

    Raises:
      ValueError: a score is not finite, shapes disagree, or `fpr_limit` is out of its range.
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit={fpr_limit}: must lie in (0, 1]")
    if known is not None and not np.all(known):
        anomaly_map, gt_mask = anomaly_map[known], gt_mask[known]
    positive = np.asarray(gt_mask, bool)
    _check(anomaly_map, positive)
    if positive.all() or not positive.any():
        return dict.fromkeys(PIXEL_METRICS), None
    curve = _curve(anomaly_map, positive, _region_weights(positive))
    found: dict[str, float | None] = {
        "p_auroc": _auroc(curve),
        "p_ap": _average_precision(curve),
        "p_f1_max": _f1_max(curve),
        "aupro": _aupro(curve, fpr_limit),
    }
    return found, _per_region_overlap(curve, fpr_limit, points)


def combine(
    image: Mapping[str, float | None], pixel: Mapping[str, float | None], gt_label: np.ndarray
) -> Metrics:
    """The row of a category, of what `image_metrics` and `pixel_metrics` returned."""
    seven = {**image, **pixel}
    n_anomalous = int(np.count_nonzero(gt_label))
    return Metrics(
        **seven,
        mad=_mean(list(seven.values())) if None not in seven.values() else None,
        n_normal=len(gt_label) - n_anomalous,
        n_anomalous=n_anomalous,
    )


def mean_over_categories(categories: Mapping[str, Metrics]) -> Metrics:
    """Unweighted means; image counts are summed.

    A metric that some categories lack is averaged over those that have it, and is None where none
    has it. `mad` is averaged like any other: it covers the categories that have all seven.

    Raises:
      ValueError: no category.
    """
    rows = list(categories.values())
    if not rows:
        raise ValueError("no category to average over")
    names = (*IMAGE_METRICS, *PIXEL_METRICS, "mad")
    return Metrics(
        **{name: _mean([getattr(row, name) for row in rows]) for name in names},
        n_normal=sum(row.n_normal for row in rows),
        n_anomalous=sum(row.n_anomalous for row in rows),
    )


class _Curve(NamedTuple):
    """What is called anomalous as the threshold falls from above all scores to below all.

    K is the number of distinct anomalous scores. Each gives two vertices, just above it and at it:
    from one score to the next only normal ones are passed (fp alone grows), and at a score all that
    tie with it are passed at once, so that the curve is straight there.
    """

    fp: np.ndarray
    """(2K + 2,) int64, normal scores at or above the threshold: 0 up to their number."""
    tp: np.ndarray
    """(2K + 2,) int64, the same of anomalous scores."""
    overlap: np.ndarray
    """(2K + 2,) float64, share of the weight of the anomalous scores: 0 up to 1."""


def _curve(score: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> _Curve:
    """Ranks the scores; `weight` belongs to `score[positive]`. Both classes must be there."""
    normal = score[~positive]  # (...) -> (n,)
    normal.sort()
    anomalous = score[positive]  # (...) -> (p,)
    order = np.argsort(anomalous)[::-1]
    anomalous = anomalous[order]
    last = np.flatnonzero(np.append(anomalous[1:] != anomalous[:-1], True))  # of ties; (K,)
    threshold = anomalous[last]
    passed = [  # normal scores above each threshold, and at or above it
        len(normal) - np.searchsorted(normal, threshold, side) for side in ("right", "left")
    ]
    fp = np.concatenate([[0], np.stack(passed, axis=1).ravel(), [len(normal)]])  # (2K + 2,)
    tp = np.repeat(np.append(0, last + 1), 2)  # (2K + 2,)
    overlap = np.cumsum(weight[order])[last]  # (K,)
    # divided by the rounded sum itself, so that it ends at 1 and never exceeds it
    return _Curve(fp, tp, np.repeat(np.append(0.0, overlap / overlap[-1]), 2))


def _auroc(curve: _Curve) -> float:
    """Probability that an anomalous score exceeds a normal one, ties counted by half."""
    twice_area = np.sum(np.diff(curve.fp) * (curve.tp[1:] + curve.tp[:-1]))  # exact: integers
    return float(twice_area / (2 * curve.fp[-1] * curve.tp[-1]))


def _average_precision(curve: _Curve) -> float:
    """Sum over thresholds of precision times the gain in recall (no interpolation)."""
    precision = curve.tp / np.maximum(curve.tp + curve.fp, 1)  # nothing found: no gain either
    return float(np.sum(np.diff(curve.tp) * precision[1:]) / curve.tp[-1])


def _f1_max(curve: _Curve) -> float:
    """Largest F1 of all thresholds; one that finds nothing new cannot be the best."""
    return float(np.max(2 * curve.tp / (curve.tp + curve.fp + curve.tp[-1])))


def _aupro(curve: _Curve, fpr_limit: float) -> float:
    """Area under `overlap` for fpr in [0, fpr_limit], over `fpr_limit`."""
    fpr = curve.fp / curve.fp[-1]
    inside = np.searchsorted(fpr, fpr_limit, "right")
    x = np.append(fpr[:inside], fpr_limit)
    y = np.append(curve.overlap[:inside], np.interp(fpr_limit, fpr, curve.overlap))
    return float(np.trapezoid(y, x) / fpr_limit)


def _per_region_overlap(curve: _Curve, fpr_limit: float, points: int) -> PerRegionOverlap:
    """Where it bends most, at small rates, the points lie closest."""
    fpr = fpr_limit * np.linspace(0, 1, points) ** 2
    return PerRegionOverlap(fpr, np.interp(fpr, curve.fp / curve.fp[-1], curve.overlap))


def _region_weights(gt_mask: np.ndarray) -> np.ndarray:
    """1 / area of its region, for each True pixel in row-major order: (N, H, W) -> (p,)."""
    weights = []
    for mask in gt_mask[gt_mask.any(axis=(1, 2))]:
        region, _ = ndimage.label(mask, _EIGHT_CONNECTED)
        region = region[mask]  # (H, W) -> (pixels,)
        weights.append(1 / np.bincount(region)[region])
    return np.concatenate(weights)


def _check(score: np.ndarray, positive: np.ndarray) -> None:
    if score.shape != positive.shape:
        raise ValueError(f"scores {score.shape} and ground truth {positive.shape} differ in shape")
    if not np.isfinite(score).all():
        raise ValueError("a score is NaN or infinite")


def _mean(values: list[float | None]) -> float | None:
    """Of those that are there."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
