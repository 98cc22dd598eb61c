"""How normal images score under a model: what a calibration is fitted on, kept in the workdir.

Read next: `calibration.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from invad_jax import calibration as calibration_lib
from invad_jax import files, runtime
from invad_jax.calibration import Calibration
from invad_jax.config import Config
from invad_jax.data.layouts import Sample
from invad_jax.errors import UserError
from invad_jax.inference import Model
from invad_jax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class NormalScores:
    """The score terms of normal images: what a calibration is fitted on."""

    nll: np.ndarray
    map_range: np.ndarray
    held_out: bool
    """Whether the images were kept out of the training of the denoiser."""


def normals_key(config: Config, step: int) -> dict[str, Any]:
    """What the scores of normal images depend on, besides the images."""
    return {
        "step": step,
        "inversion": dataclasses.asdict(config.inversion),
    }


def score_normals(
    model: Model, workdir: Workdir, normals: Sequence[Sample] | None, held_out: bool
) -> NormalScores:
    """The scores of normal images under the model's settings, from the workdir or made now.

    Args:
      model: the detector.
      workdir: where they are kept.
      normals: the images, or None when they are not at hand.
      held_out: whether they were kept out of training.

    Raises:
      UserError: not in the workdir, and no images given.
    """
    key = normals_key(model.config, model.step)
    path = workdir.normals(key)
    if path.is_file():
        stored = files.read_json(path)
        return NormalScores(
            np.array(stored["nll"]), np.array(stored["map_range"]), stored["held_out"]
        )
    if normals is None:
        raise UserError(
            f"{workdir.path}: not calibrated for these inversion options; run "
            "`python -m invad_jax.eval` with them where the training images are"
        )
    nll, map_range = np.empty(len(normals)), np.empty(len(normals))
    for ids, scores in model.predict_paths([sample.path for sample in normals]):
        nll[ids], map_range[ids] = scores.nll, scores.map_range
    if runtime.is_primary():
        content = {"key": key, "held_out": held_out, "path": [s.path for s in normals],
                   "nll": nll.tolist(), "map_range": map_range.tolist()}  # fmt: skip
        files.write_json(path, content)
    return NormalScores(nll, map_range, held_out)


def calibrate(config: Config, normals: NormalScores) -> Calibration:
    """Fits the scale of the two terms and the threshold at the config's false-positive rate."""
    return calibration_lib.fit(
        normals.nll, normals.map_range, config.calibration.false_positive_rate, normals.held_out
    )
