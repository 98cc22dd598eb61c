"""A test set through the detector: every score, beside its ground truth.

Read next: `results.py`, what is written of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from invad_jax.config import TERMS
from invad_jax.data.layouts import Sample
from invad_jax.errors import UserError
from invad_jax.evaluation import ground_truth
from invad_jax.evaluation.ground_truth import GroundTruth
from invad_jax.inference.model import Model, without_maps
from invad_jax.normality import calibration as calibration_lib
from invad_jax.normality.calibrations import Calibrations
from invad_jax.runtime import processes
from invad_jax.scoring import Scores


class Evaluation(NamedTuple):
    """Everything that is known of a test set, one row per sample."""

    truth: GroundTruth
    latent_norm: np.ndarray
    """(N, h, w) float32: the maps, on the grid of the latents."""
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


def evaluate(model: Model, calibrations: Calibrations, samples: tuple[Sample, ...]) -> Evaluation:
    """Scores the test set and reads its ground truth.

    Memory: a byte a test pixel for the masks, beside what the metrics take.

    Raises:
      UserError: no image can be read.
    """
    readable, scores = _score(model, [sample.path for sample in samples])
    unreadable = sorted({sample.path for sample in samples} - {samples[i].path for i in readable})
    samples = tuple(samples[i] for i in readable)
    truth = ground_truth.read(samples, model.config.data)
    terms = {name: np.asarray(getattr(scores, name), np.float64) for name in TERMS}
    component = np.asarray(scores.component)
    calibrated = calibrations.image_score(terms, component)
    categories = [sample.category for sample in samples]
    image_score = {
        "calibrated": calibrated,
        "test_minmax": calibration_lib.test_minmax(terms["nll"], terms["map_range"], categories),
    }
    threshold = calibrations.threshold(component)
    return Evaluation(
        truth, np.asarray(scores.latent_norm), terms, component, image_score, threshold, unreadable
    )


def _score(model: Model, paths: Sequence[str]) -> tuple[np.ndarray, Scores]:
    """Rows of the images that can be read, rising, and their scores without the large maps."""
    ids, parts = [], []
    with tqdm(
        total=len(paths), desc="eval", unit="image", disable=not processes.is_primary()
    ) as bar:
        for some, scores in model.predict_paths(paths, skip_unreadable=True):
            ids.append(some)
            parts.append(without_maps(scores))
            bar.update(len(some))
    rows = np.concatenate(ids)
    if not len(rows):
        raise UserError(f"{paths[0]}: cannot be read, nor can any other of {len(paths)} images")
    order = np.argsort(rows)
    return rows[order], jax.tree.map(lambda *of: np.concatenate(of)[order], *parts)
