"""Whether a bundle does on this machine what it did where it was exported, and how fast."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from invad_jax.inference.bundle import BundleModel
from invad_jax.runtime import processes

TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
"""Of scores, in units of the spread of normal images, and of maps, of their largest value, by the
type of the network's activations: what a device that rounds elsewhere leaves of 24 bits after sums
of thousands (a CPU stays below 1e-5), or of 8: five of their last digit."""
_RUNS = 10


class Validation(NamedTuple):
    """What was found; differences are the largest over the packed pictures."""

    pictures: int
    score_difference: float
    """In units of the spread of normal images."""
    map_difference: float
    """Of the largest value of the map."""
    decisions_differ: int
    seconds: dict[int, float]
    """Images that are scored together -> median, from pixels in memory to results in memory."""
    device: str
    tolerance: float
    """Of both differences."""

    @property
    def holds(self) -> bool:
        """Whether it is the same detector here."""
        worst = max(self.score_difference, self.map_difference)
        return not self.decisions_differ and worst <= self.tolerance


def validate(path: Path) -> tuple[BundleModel, Validation]:
    """Checks a bundle and measures it.

    Raises:
      UserError: it is damaged, or cannot run here.
    """
    model = BundleModel(path)
    expected = model.pictures
    found = model.outputs(expected.image)
    score = found["image_score"].astype(np.float64) - expected.image_score
    ours, theirs = map(np.nan_to_num, (found["latent_norm"], expected.latent_norm))
    of_map = np.abs(ours - theirs).max(axis=(1, 2))
    validation = Validation(
        pictures=len(expected.image),
        score_difference=_largest(score),
        map_difference=_largest(of_map / np.abs(theirs).max(axis=(1, 2))),
        decisions_differ=int(np.sum(found["decision"] != expected.decision)),
        seconds={count: _seconds(model, count) for count in sorted({1, model.batch_size})},
        device=jax.devices()[0].device_kind,
        tolerance=TOLERANCE[model.config.denoiser.activations],
    )
    return model, validation


def lines(model: BundleModel, validation: Validation) -> list[str]:
    """The same in words."""
    about: dict[str, Any] = model.about
    size = sum(part["bytes"] for part in about["parts"].values())
    made = about["made_by"]
    decisions = (
        f"{validation.decisions_differ} decisions differ"
        if validation.decisions_differ
        else "decisions identical"
    )
    speed = ", ".join(
        f"{count} at a time {1000 * seconds:.3g} ms ({count / seconds:.3g} images/s)"
        for count, seconds in validation.seconds.items()
    )
    return [
        f"{model.path}: {about['workdir']} at step {about['step']}, exported {about['exported']} "
        f"by invad_jax {made['invad_jax']} with JAX {made['jax']}",
        f"{len(about['parts'])} parts of {size / 1e6:.3g} MB: each as it was written",
        f"{validation.pictures} pictures: scores within {validation.score_difference:.1e} of the "
        f"spread of normal images, maps within {validation.map_difference:.1e} (at most "
        f"{validation.tolerance:g}), {decisions}",
        f"speed on {validation.device} with JAX {jax.__version__}: {speed}",
    ]


def _seconds(model: BundleModel, count: int) -> float:
    """Median of the runs of a batch, after the one that compiles."""
    images = np.resize(model.pictures.image, (count, *model.pictures.image.shape[1:]))
    model.run(images)
    return statistics.median(processes.seconds_of(lambda: model.run(images), 0.0, _RUNS))


def _largest(difference: np.ndarray) -> float:
    """Of absolute values; infinite where one is not a number."""
    largest = float(np.max(np.abs(difference)))
    return largest if np.isfinite(largest) else float("inf")
