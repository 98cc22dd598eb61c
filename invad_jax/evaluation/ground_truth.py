"""The ground truth of a test set, and every metric of scores that are held against it.

Read next: `metrics.py`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from invad_jax import metrics
from invad_jax.config import DataConfig
from invad_jax.data import masks, preprocess
from invad_jax.data.dataset import Sample, some
from invad_jax.data.maps import enlarge
from invad_jax.errors import UserError
from invad_jax.evaluation.spill import Rows

log = logging.getLogger(__name__)


class GroundTruth(NamedTuple):
    """What is known of N test images."""

    samples: tuple[Sample, ...]
    gt_mask: np.ndarray
    """(N, H, W) bool; empty for a normal image. May lie in a file."""
    has_mask: np.ndarray
    """(N,) bool: whether the ground truth of every pixel is known; normals need no mask."""
    extent: np.ndarray
    """(N, 2) int: rows and columns of the square that an image fills."""


def read(samples: Sequence[Sample], data: DataConfig, folder: Path | None = None) -> GroundTruth:
    """Reads the masks at `data.image_size` pixels a side, into a file of a folder or into memory.

    A mask of an anomalous image that marks nothing, or everything, does not tell where the anomaly
    is, nor does one that cannot be read or has another size: the image is named and counts as one
    without a mask.
    """
    gt_mask = Rows(len(samples), (data.image_size, data.image_size), bool, folder)
    extent = np.full((len(samples), 2), data.image_size)
    if data.aspect == "letterbox":
        sizes = (preprocess.size_of(sample.path, data) for sample in samples)
        extent = np.array([preprocess.extent(size, data) for size in sizes])
    has_mask = np.array([sample.gt_label == 0 for sample in samples], bool)
    unusable: list[str] = []
    unclear: dict[str, list[str]] = {"nothing": [], "everything": []}
    for i, sample in enumerate(samples):
        if not sample.mask_paths:
            continue
        try:
            marked = masks.read_mask(sample.mask_paths, sample.path, data)
        except UserError as error:
            unusable.append(str(error))
            continue
        rows, columns = extent[i]
        if marked.any() and not marked[:rows, :columns].all():
            gt_mask.write(i, marked)
            has_mask[i] = True
        else:
            unclear["everything" if marked.any() else "nothing"].append(sample.mask_paths[0])
    if unusable:
        log.warning(
            "%d masks cannot be used; their images take no part in the pixel metrics: %s",
            *(len(unusable), some(unusable)),
        )
    for what, paths in unclear.items():
        if paths:
            log.warning(
                "%d masks of anomalous images mark %s; the images take no part in the pixel "
                "metrics: %s",
                len(paths),
                what,
                some(paths),
            )
    return GroundTruth(tuple(samples), gt_mask.array, has_mask, extent)


def mask_counts(truth: GroundTruth) -> dict[str, dict[str, int]]:
    """Category -> how many of its anomalous images are `with` and `without` a usable mask."""
    counts: dict[str, dict[str, int]] = {}
    for sample, has_mask in zip(truth.samples, truth.has_mask, strict=True):
        count = counts.setdefault(sample.category, {"with": 0, "without": 0})
        if sample.gt_label:
            count["with" if has_mask else "without"] += 1
    return counts


def mask_note(counts: Mapping[str, Mapping[str, int]]) -> str:
    """What stands below a table whose pixel metrics do not cover all anomalous images, or nothing.

    >>> mask_note({"nut": {"with": 6, "without": 3}, "pin": {"with": 2, "without": 0}})
    'images: 8 with masks, 3 without (nut 3): pixel metrics are of those with masks'
    >>> mask_note({"nut": {"with": 2, "without": 0}})
    ''
    """
    total = {kind: sum(count[kind] for count in counts.values()) for kind in ("with", "without")}
    if not total["without"]:
        return ""
    lacking = [f"{name} {count['without']}" for name, count in counts.items() if count["without"]]
    where = f" ({', '.join(lacking)})" if len(counts) > 1 else ""
    measured = "of those with masks" if total["with"] else "left out"
    return (
        f"images: {total['with']} with masks, {total['without']} without{where}: pixel metrics "
        f"are {measured}"
    )


def metric_tables(
    truth: GroundTruth, latent_norm: np.ndarray, image_score: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, metrics.PerRegionOverlap]]:
    """A table for each image score; the pixel metrics, which all of them share, are made once.

    Maps are enlarged for a few images at a time, and for none of a category that has no mask.

    Args:
      truth: of N images.
      latent_norm: (N, h, w) float32, the maps on their grid or as large as the masks; NaN where a
        position takes no part, nor do the pixels there.
      image_score: name -> (N,) float64.

    Returns:
      Name of the score -> {"categories": {category: metrics}, "mean": metrics}, values 0..1 or
      None, as `fusion` of `metrics.json`; and category -> curve, of those that have masks.
    """
    category = np.array([sample.category for sample in truth.samples])
    label = np.array([sample.gt_label for sample in truth.samples])
    tables: dict[str, dict[str, metrics.Metrics]] = {kind: {} for kind in image_score}
    curves: dict[str, metrics.PerRegionOverlap] = {}
    for name in sorted(set(category)):
        rows = np.flatnonzero(category == name)
        pixel, curve = _pixel_metrics(latent_norm, truth, rows[truth.has_mask[rows]])
        if curve:
            curves[name] = curve
        for kind, score in image_score.items():
            image = metrics.image_metrics(score[rows], label[rows])
            tables[kind][name] = metrics.combine(image, pixel, label[rows])
    fusion = {
        kind: {
            "categories": {name: dataclasses.asdict(row) for name, row in table.items()},
            "mean": dataclasses.asdict(metrics.mean_over_categories(table)),
        }
        for kind, table in tables.items()
    }
    return fusion, curves


def _pixel_metrics(
    latent_norm: np.ndarray, truth: GroundTruth, rows: np.ndarray
) -> tuple[dict[str, float | None], metrics.PerRegionOverlap | None]:
    """Of some images; maps of a part of them are enlarged at a time."""
    if not any(truth.gt_mask[row].any() for row in rows):
        return dict.fromkeys(metrics.PIXEL_METRICS), None
    side = truth.gt_mask.shape[-1]

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        for these in metrics.in_parts(rows, side**2):
            enlarged = enlarge(latent_norm[these], side)
            yield enlarged, truth.gt_mask[these], _part(enlarged, truth.extent[these])

    return metrics.pixel_metrics_of(parts)


def _part(enlarged: np.ndarray, extent: np.ndarray) -> np.ndarray | None:
    """The pixels of maps (n, S, S) that take part, or None where all do."""
    side, known = enlarged.shape[-1], np.isfinite(enlarged)
    if known.all() and (extent == side).all():
        return None
    row, column = (np.arange(side)[None] < extent[:, axis, None] for axis in (0, 1))
    return np.asarray(known & row[:, :, None] & column[:, None, :])
