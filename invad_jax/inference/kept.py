"""What a workdir keeps of the scores of normal images, and the calibrations that they make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from invad_jax.config import TERMS
from invad_jax.errors import UserError
from invad_jax.inference.model import Model
from invad_jax.io import files
from invad_jax.normality import calibrations, drift
from invad_jax.normality.calibrations import Calibrations
from invad_jax.paradigms.paradigm import Paradigm
from invad_jax.runtime import processes
from invad_jax.runtime.log import log
from invad_jax.runtime.workdir import Workdir

SCORES, PROFILE = "scores.json", "profile.npz"
DIGITS = 16
"""Of the content hashes by which scores know the images that were trained on."""


OF_TRAINING = "of_training"
"""The folder, in that of a way of scoring, where the calibration of the training waits while that
of a line is in its place."""
RATE = "rate.json"
"""There, too: the false-alarm rate that the workdir asked for."""


def read_scores(workdir: Workdir, model: Model) -> dict[str, Any] | None:
    """The terms of normal images as they are kept; None where they are not, or not all of them."""
    path = folder(workdir, model) / SCORES
    content: dict[str, Any] | None = files.read_json(path) if path.is_file() else None
    if content is not None and (missing := [term for term in TERMS if term not in content]):
        log.warning(
            "%s: is of before scores had %s, and counts as not calibrated", path, ", ".join(missing)
        )
        return None
    return content


def folder(workdir: Workdir, model: Model) -> Path:
    """Where a workdir keeps what normal images taught the model under its way of comparing."""
    return workdir.normals(model.config, model.paradigm, model.step, model.made_of)


def write_scores(where: Path, content: Mapping[str, Any], profile: drift.Profile | None) -> None:
    """Keeps the scores of normal images, and beside them what new ones can be compared with."""
    if processes.is_primary():
        if profile is None:
            (where / PROFILE).unlink(missing_ok=True)
        else:
            drift.write(where / PROFILE, profile)
        files.write_json(where / SCORES, content)
    processes.barrier("normals")


def keep_precision(workdir: Workdir, model: Model) -> None:
    """Notes the precision of the first calibration, before its scores are written."""
    if processes.is_primary() and not workdir.precision.is_file():
        files.write_json(workdir.precision, {"dtype": model.config.denoiser.dtype})


def read_precision(workdir: Workdir) -> str | None:
    """That of the first calibration; None where nothing is calibrated.

    Raises:
      UserError: the file is damaged.
    """
    if not workdir.precision.is_file():
        return None
    dtype = files.read_json(workdir.precision).get("dtype")
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"{workdir.precision}: names no precision")
    return str(dtype)


def read_profile(workdir: Workdir, model: Model) -> drift.Profile | None:
    """What is kept beside `read_scores`; None of a version before it was."""
    return drift.read(folder(workdir, model) / PROFILE)


def forget_line(where: Path) -> None:
    """Before the training's calibration is made anew: that of a line is in its place no more."""
    aside = where / OF_TRAINING
    if not processes.is_primary() or not (aside / SCORES).is_file():
        return
    log.warning("%s: the calibration by a line's own images is given up", where)
    for name in (SCORES, PROFILE, RATE):
        (aside / name).unlink(missing_ok=True)


class Named(Protocol):
    """What a calibration asks of a model."""

    @property
    def component_names(self) -> tuple[str, ...]: ...

    @property
    def paradigm(self) -> Paradigm: ...


def fit(model: Named, scores: Mapping[str, Any], false_positive_rate: float) -> Calibrations:
    """The calibrations by the content of `scores.json`."""
    return calibrations.fit(
        {term: np.array(scores[term]) for term in TERMS},
        scores["component"],
        model.component_names,
        model.paradigm.terms,
        {name: (low, full) for name, (low, full) in scores["heat"].items()},
        false_positive_rate,
        scores["held_out"],
    )


def normal_scores(fitted: Calibrations, scores: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Kind -> the image scores of the normal images that set its threshold, (n,) float64, rising.

    Args:
      fitted: by the same images.
      scores: the content of `scores.json`.
    """
    component = np.array([fitted.names.index(name) for name in scores["component"]])
    values = {term: np.array(scores[term]) for term in TERMS}
    score = fitted.image_score(values, component)
    own = {name: score[component == k] for k, name in enumerate(fitted.names)}
    return {name: np.sort(one if len(one) else score) for name, one in own.items()}
