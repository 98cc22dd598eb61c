"""What lies around the compiled programs: reading images, deciding, metrics."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from invad_jax import metrics
from invad_jax.benchmarks import machine
from invad_jax.benchmarks.clock import Run, alone, now
from invad_jax.inference.predictor import Predictor

METRIC_MAPS, METRIC_SIDE = 100, 256


def metrics_run() -> Run:
    """Every pixel metric of 100 maps of 256 x 256, half of them with a region."""
    anomaly_map, gt_mask = drawn_maps(METRIC_MAPS)
    return lambda: metrics.pixel_metrics(anomaly_map, gt_mask)


def drawn_maps(count: int, one_in: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps (count, 256, 256) float32 of noise, and masks of which one in `one_in` has a region of
    32 x 40, where the map is higher."""
    rng = np.random.default_rng(seed)
    gt_mask = np.zeros((count, METRIC_SIDE, METRIC_SIDE), bool)
    for row in range(0, count, one_in):
        top, left = rng.integers(0, METRIC_SIDE - 40, 2)
        gt_mask[row, top : top + 32, left : left + 40] = True
    return rng.standard_exponential(gt_mask.shape, np.float32) + gt_mask, gt_mask


def write_images(folder: Path, count: int, side: int = 512) -> list[str]:
    """JPEG files of coarse noise, such as a camera's: (side, side), the same in every run."""
    rng, paths = np.random.default_rng(0), []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 16, side // 16, 3), np.uint8))
        paths.append(str(folder / f"{i:05d}.jpg"))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def predict_files(predictor: Predictor, paths: list[str], detector: Run) -> dict[str, Any]:
    """Files to decisions, without overlays.

    Args:
      predictor: its programs are compiled.
      paths: at least a batch.
      detector: runs one of its batches alone, which is timed before and after.

    Returns:
      `images_per_second`; `busy_share` and `processor_share`: what of the time, and of that of this
      process on all cores, the detector alone takes for its batches. On a CPU the latter is what
      the former could be if nothing waited; `memory_mb`: of the process, the most in the first
      tenth and the most after it.
    """
    before = alone(detector)
    start, scored, memory = now(), 0, []
    for ids, _ in predictor.predict_files(paths):
        scored += len(ids)
        memory.append((scored, machine.host_bytes()))
    wall, processor, _ = (end - begun for begun, end in zip(start, now(), strict=True))
    taken = [statistics.mean(pair) for pair in zip(before, alone(detector), strict=True)]
    early = max(some for count, some in memory if count <= max(memory[0][0], len(paths) // 10))
    batches = -(-len(paths) // predictor.model.batch_size)
    return {
        "images": scored,
        "images_per_second": round(scored / wall, 2),
        "busy_share": round(batches * taken[0] / wall, 3),
        "processor_share": round(batches * taken[1] / processor, 3),
        "memory_mb": [round(one / 1e6, 1) for one in (early, max(some for _, some in memory))],
    }
