"""The ground truth of a test set, and every metric of scores that are held against it.

Read next: `metrics.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from invad_jax import metrics
from invad_jax.data import preprocess
from invad_jax.data.dataset import Sample


class GroundTruth(NamedTuple):
    """What is known of N test images."""

    samples: tuple[Sample, ...]
    gt_mask: np.ndarray
    """(N, H, W) bool; empty for a normal image."""
    has_mask: np.ndarray
    """(N,) bool: whether the ground truth of every pixel is known; normals need no mask."""


def read(samples: Sequence[Sample], size: int) -> GroundTruth:
    """Reads the masks at `size` pixels a side."""
    gt_mask = np.zeros((len(samples), size, size), bool)
    has_mask = np.ones(len(samples), bool)
    for i, sample in enumerate(samples):
        if sample.mask_path is not None:
            gt_mask[i] = preprocess.read_mask(sample.mask_path, sample.path, size)
        else:
            has_mask[i] = sample.gt_label == 0
    return GroundTruth(tuple(samples), gt_mask, has_mask)


def metric_tables(
    truth: GroundTruth, anomaly_map: np.ndarray, image_score: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """A table for each image score; the pixel metrics, which all of them share, are made once.

    Args:
      truth: of N images.
      anomaly_map: (N, H, W) float32.
      image_score: name -> (N,) float64.

    Returns:
      Name of the score -> {"categories": {category: metrics}, "mean": metrics}, values 0..1 or
      None, as `fusion` of `metrics.json`.
    """
    category = np.array([sample.category for sample in truth.samples])
    label = np.array([sample.gt_label for sample in truth.samples])
    tables: dict[str, dict[str, metrics.Metrics]] = {kind: {} for kind in image_score}
    for name in sorted(set(category)):
        rows = np.flatnonzero(category == name)
        pixel = metrics.pixel_metrics(anomaly_map[rows], truth.gt_mask[rows], truth.has_mask[rows])
        for kind, score in image_score.items():
            image = metrics.image_metrics(score[rows], label[rows])
            tables[kind][name] = metrics.combine(image, pixel, label[rows])
    return {
        kind: {
            "categories": {name: dataclasses.asdict(row) for name, row in table.items()},
            "mean": dataclasses.asdict(metrics.mean_over_categories(table)),
        }
        for kind, table in tables.items()
    }
