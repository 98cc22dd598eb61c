"""What lies around the compiled programs: reading images, deciding, metrics."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from invad_jax import metrics
from invad_jax.benchmarks.clock import Run
from invad_jax.inference.predictor import Predictor

METRIC_MAPS, METRIC_SIDE = 100, 256


def metrics_run() -> Run:
    """Every pixel metric of 100 maps of 256 x 256, half of them with a region."""
    rng = np.random.default_rng(0)
    gt_mask = np.zeros((METRIC_MAPS, METRIC_SIDE, METRIC_SIDE), bool)
    for row in range(0, METRIC_MAPS, 2):
        top, left = rng.integers(0, METRIC_SIDE - 40, 2)
        gt_mask[row, top : top + 32, left : left + 40] = True
    anomaly_map = rng.gamma(2.0, size=gt_mask.shape).astype(np.float32) + gt_mask
    return lambda: metrics.pixel_metrics(anomaly_map, gt_mask)


def write_images(folder: Path, count: int, side: int = 512) -> list[str]:
    """JPEG files of coarse noise, such as a camera's: (side, side), the same in every run."""
    rng, paths = np.random.default_rng(0), []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 16, side // 16, 3), np.uint8))
        paths.append(str(folder / f"{i:05d}.jpg"))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def predict_files(predictor: Predictor, paths: list[str], batch_seconds: float) -> dict[str, Any]:
    """Files to decisions, without overlays: images a second, and how busy the devices are.

    Args:
      predictor: its programs are compiled.
      paths: at least a batch.
      batch_seconds: that the detector alone takes for one of its batches.
    """
    start, scored = time.perf_counter(), 0
    for ids, _ in predictor.predict_files(paths):
        scored += len(ids)
    seconds = time.perf_counter() - start
    batches = -(-len(paths) // predictor.model.batch_size)
    return {
        "images": scored,
        "images_per_second": round(scored / seconds, 2),
        "busy_share": round(batches * batch_seconds / seconds, 3),
    }
