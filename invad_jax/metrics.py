"""Exact detection metrics: every distinct score is a threshold; nothing is binned or sampled.

All of them are read off one polygon, the receiver operating characteristic (`_Curve`). Only
thresholds at which something anomalous is found are vertices: the anomalous scores are sorted, and
normal ones counted between them. Counts add up to the same integers however pixels are cut into
parts, so they come in two passes over a few images at a time (`Parts`), and beyond its inputs a
pixel metric holds 110 bytes an anomalous pixel (of which there are few) and 11 a pixel of a part.

Values lie in [0, 1]. A metric that is undefined (one class only, no masks) is None, never 0.
Read next: `report/tables.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

IMAGE_METRICS = ("i_auroc", "i_ap", "i_f1_max")
PIXEL_METRICS = ("p_auroc", "p_ap", "p_f1_max", "aupro")
PART = 2**23
"""Pixels of the images that are looked at together: at least one image."""
Parts = Callable[[], Iterable[tuple[np.ndarray, np.ndarray, np.ndarray | None]]]
"""Gives maps, masks and what takes part, (n, H, W) each, of some images after some others, the same
each time; None: everything takes part."""

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
    n_anomalous: int
    """Images, as `n_normal`."""


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
    curve = _curve(image_score[positive], np.ones(positive.sum()), [image_score[~positive]])
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
    anomaly_map: np.ndarray, gt_mask: np.ndarray, fpr_limit: float = 0.3
) -> dict[str, float | None]:
    """AUROC, average precision and F1-max over all pixels of all images, and AUPRO.

    AUPRO (Bergmann et al. 2019, MVTec AD, section 5.1) is the area under the mean overlap of the
    anomalous regions against the false-positive rate of the pixels, up to `fpr_limit` and divided
    by it; the curve is linear between thresholds. A region is an 8-connected part of one mask.

    Args:
      anomaly_map: (N, H, W) float32, higher is more anomalous.
      gt_mask: (N, H, W) bool.
      fpr_limit: in (0, 1].

    Returns:
      `PIXEL_METRICS` by name; all None where pixels of one class are missing.

    Raises:
      ValueError: a score is not finite, shapes disagree, or `fpr_limit` is out of its range.
    """
    if anomaly_map.shape != gt_mask.shape:
        _check(anomaly_map, gt_mask)

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray, None]]:
        for some in in_parts(np.arange(len(gt_mask)), gt_mask[0].size if len(gt_mask) else 1):
            yield anomaly_map[some], gt_mask[some], None

    return pixel_metrics_of(parts, fpr_limit)[0]


def in_parts(rows: np.ndarray, pixels: int) -> Iterator[np.ndarray | slice]:
    """Rising rows of images of so many pixels each, as many at a time as `PART` allows; those that
    follow each other as a slice, which copies nothing."""
    count = max(1, PART // pixels)
    for start in range(0, len(rows), count):
        some = rows[start : start + count]
        together = some[-1] - some[0] == len(some) - 1
        yield slice(int(some[0]), int(some[-1]) + 1) if together else some


def pixel_metrics_of(
    parts: Parts, fpr_limit: float = 0.3, points: int = 100
) -> tuple[dict[str, float | None], PerRegionOverlap | None]:
    """`pixel_metrics` of images that are never all in memory, and the curve of AUPRO.

    Args:
      parts: of the images.
      fpr_limit: in (0, 1].
      points: of the curve, which is for the eye; the metrics are exact.
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit={fpr_limit}: must lie in (0, 1]")
    anomalous, weights, pixels = [], [], 0
    for anomaly_map, gt_mask, part in parts():
        positive = np.asarray(gt_mask, bool) if part is None else gt_mask & part
        if part is None:
            _check(anomaly_map, positive)
        else:
            _check(anomaly_map[part], positive[part])
        anomalous.append(anomaly_map[positive])
        weights.append(_region_weights(positive))
        pixels += positive.size if part is None else int(part.sum())
    if sum(map(len, anomalous)) in (0, pixels):
        return dict.fromkeys(PIXEL_METRICS), None
    normals = (
        one[~np.asarray(mask, bool) if part is None else part & ~mask]
        for one, mask, part in parts()
    )
    curve = _curve(np.concatenate(anomalous), np.concatenate(weights), normals)
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
    seven, n_anomalous = {**image, **pixel}, int(np.count_nonzero(gt_label))
    mad = _mean(list(seven.values())) if None not in seven.values() else None
    n_normal = len(gt_label) - n_anomalous
    return Metrics(**seven, mad=mad, n_normal=n_normal, n_anomalous=n_anomalous)


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


def _curve(anomalous: np.ndarray, weight: np.ndarray, normals: Iterable[np.ndarray]) -> _Curve:
    """Ranks scores.

    Args:
      anomalous: (p,) scores, p > 0.
      weight: (p,) of each.
      normals: the other scores, (n,) each, not all empty; they are sorted in place.
    """
    order = np.argsort(anomalous)[::-1]
    anomalous = anomalous[order]
    last = np.flatnonzero(np.append(anomalous[1:] != anomalous[:-1], True))  # of ties; (K,)
    threshold, total = anomalous[last], 0
    passed = np.zeros((len(last), 2), np.int64)  # normal scores above each, and at or above it
    for normal in normals:
        normal.sort()
        total += len(normal)
        passed[:, 0] += len(normal) - np.searchsorted(normal, threshold, "right")
        passed[:, 1] += len(normal) - np.searchsorted(normal, threshold, "left")
    fp = np.concatenate([[0], passed.ravel(), [total]])  # (2K + 2,)
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
    return np.concatenate([np.zeros(0), *weights])


def _check(score: np.ndarray, positive: np.ndarray) -> None:
    if score.shape != positive.shape:
        raise ValueError(f"scores {score.shape} and ground truth {positive.shape} differ in shape")
    if not np.isfinite(score).all():
        raise ValueError("a score is NaN or infinite")


def _mean(values: list[float | None]) -> float | None:
    """Of those that are there."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
