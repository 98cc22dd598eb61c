"""A test set through the detector: every score, beside its ground truth.

Read next: `results.py`, what is written of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from invad_jax.config import TERMS
from invad_jax.data.layouts import Sample
from invad_jax.errors import UserError
from invad_jax.evaluation import ground_truth
from invad_jax.evaluation.ground_truth import GroundTruth
from invad_jax.evaluation.spill import Rows
from invad_jax.inference.model import Model
from invad_jax.inference.predictions import is_finite
from invad_jax.normality import calibration as calibration_lib
from invad_jax.normality.calibrations import Calibrations
from invad_jax.runtime import processes
from invad_jax.runtime.log import log

_KEPT = (*TERMS, "component")


class Evaluation(NamedTuple):
    """Everything that is known of a test set, one row per sample."""

    truth: GroundTruth
    latent_norm: np.ndarray
    """(N, h, w) float32: the maps, on the grid of the latents. May lie in a file."""
    terms: dict[str, np.ndarray]
    """Each of `config.TERMS` -> (N,) float64."""
    component: np.ndarray
    """(N,) int: the likeliest component of the prior."""
    image_score: dict[str, np.ndarray]
    """Fusion name -> (N,) float64."""
    threshold: np.ndarray
    """(N,) float64, of the calibrated score: that of the kind which an image was judged as."""
    unreadable: Sequence[str] = ()
    """Paths of test images that take no part, as they could not be read."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The N images."""
        return self.truth.samples

    @property
    def decision(self) -> np.ndarray:
        """(N,) bool: True where an image is called anomalous."""
        return self.image_score["calibrated"] > self.threshold

    @property
    def gt_label(self) -> np.ndarray:
        """(N,) int: 1 = anomalous."""
        return np.array([sample.gt_label for sample in self.samples])


def evaluate(
    model: Model,
    calibrations: Calibrations,
    samples: tuple[Sample, ...],
    folder: Path | None = None,
) -> Evaluation:
    """Scores the test set and reads its ground truth.

    Args:
      model: compiled.
      calibrations: of its scores.
      samples: of the test set.
      folder: holds maps and masks, in files without a name; None: memory does.

    Raises:
      UserError: no image can be read, or the folder cannot be written.
    """
    readable, latent_norm, scores = _score(model, [sample.path for sample in samples], folder)
    unreadable = sorted({sample.path for sample in samples} - {samples[i].path for i in readable})
    samples = tuple(samples[i] for i in readable)
    truth = ground_truth.read(samples, model.config.data, folder)
    terms = {name: scores[name].astype(np.float64) for name in TERMS}
    component = scores["component"]
    calibrated = calibrations.image_score(terms, component)
    categories = [sample.category for sample in samples]
    image_score = {
        "calibrated": calibrated,
        "test_minmax": calibration_lib.test_minmax(terms["nll"], terms["map_range"], categories),
    }
    threshold = calibrations.threshold(component)
    return Evaluation(truth, latent_norm, terms, component, image_score, threshold, unreadable)


def _score(
    model: Model, paths: Sequence[str], folder: Path | None
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Rows of the images that can be read and scored, rising; their maps, terms and components."""
    maps, ids, parts = None, [], []
    with tqdm(
        total=len(paths), desc="eval", unit="image", disable=not processes.is_primary()
    ) as bar:
        for some, scores in model.predict_paths(paths, skip_unreadable=True):
            usable = is_finite(scores)
            for row in some[~usable]:
                log.warning("left out: %s: has no finite score", paths[row])
            bar.update(len(some))
            some, norm = some[usable], np.asarray(scores.latent_norm)[usable]
            maps = maps or Rows(len(paths), norm.shape[1:], np.float32, folder)
            for row, one in zip(some.tolist(), norm, strict=True):
                maps.write(row, one)
            ids.append(some)
            parts.append({name: np.asarray(getattr(scores, name))[usable] for name in _KEPT})
    rows = np.concatenate(ids)
    if maps is None or not len(rows):
        raise UserError(
            f"{paths[0]}: cannot be read or has no score, nor has any other of {len(paths)} images"
        )
    order = np.argsort(rows)
    kept = {name: np.concatenate([part[name] for part in parts])[order] for name in _KEPT}
    return rows[order], maps.keep(rows[order].tolist()), kept
