"""A test set through the detector: every score, beside its ground truth.

Read next: `results.py`, what is written of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from invad_jax.config import TERMS
from invad_jax.data.layouts import Sample
from invad_jax.evaluation import ground_truth
from invad_jax.evaluation.ground_truth import GroundTruth
from invad_jax.inference.model import Model
from invad_jax.normality import calibration as calibration_lib
from invad_jax.normality.calibrations import Calibrations
from invad_jax.runtime import processes


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
    """
    count = len(samples)
    truth = ground_truth.read(samples, model.config.data)
    latent_norm = np.empty((count, *model.latent_shape[:2]), np.float32)
    terms = {name: np.empty(count) for name in TERMS}
    component = np.zeros(count, int)
    with tqdm(total=count, desc="eval", unit="image", disable=not processes.is_primary()) as bar:
        for ids, scores in model.predict_paths([sample.path for sample in samples]):
            latent_norm[ids] = scores.latent_norm
            component[ids] = scores.component
            for name, values in terms.items():
                values[ids] = getattr(scores, name)
            bar.update(len(ids))
    calibrated = calibrations.image_score(terms, component)
    categories = [sample.category for sample in samples]
    image_score = {
        "calibrated": calibrated,
        "test_minmax": calibration_lib.test_minmax(terms["nll"], terms["map_range"], categories),
    }
    threshold = calibrations.threshold(component)
    return Evaluation(truth, latent_norm, terms, component, image_score, threshold)
