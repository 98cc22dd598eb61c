"""What normal images teach a trained model: the prior of x_T, and the scale of its scores.

Both are kept in the workdir, in a folder for each way of scoring, so that new images can be scored
where no training image is at hand. `prior.npz` is written first and `scores.json` last: a folder
without the latter is not used. Read next: `prior.py`, `calibration.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from invad_jax import calibration as calibration_lib
from invad_jax import files, prior, runtime
from invad_jax.assembly import uses_prior
from invad_jax.calibration import Calibration
from invad_jax.data.layouts import Sample
from invad_jax.encoding import encode_samples
from invad_jax.errors import UserError
from invad_jax.inference import Model
from invad_jax.runtime import log
from invad_jax.workdir import Workdir, scoring_key

Normals = tuple[Sequence[Sample], Sequence[Sample]]
"""Images that were trained on, and images that were held out."""


def calibrated(
    model: Model, workdir: Workdir, normals: Normals | None
) -> tuple[Model, Calibration]:
    """The model with its prior, and the calibration of its scores under the model's config.

    Args:
      model: as loaded.
      workdir: where what the normal images gave is kept.
      normals: the images, or None when they are not at hand.

    Raises:
      UserError: not in the workdir, and no images given.
    """
    folder = workdir.normals(model.config, model.step)
    if not (folder / "scores.json").is_file():
        if normals is None:
            raise UserError(
                f"{workdir.path}: not calibrated for these inversion and scoring options; run "
                "`python -m invad_jax.eval` with them where the training images are"
            )
        _learn(model, folder, normals)
    if uses_prior(model.config):
        model = model.with_prior(prior.read(folder / "prior.npz"))
    scores = files.read_json(folder / "scores.json")
    return model, calibration_lib.fit(
        np.array(scores["nll"]), np.array(scores["map_range"]), tuple(scores["heat"]),
        model.config.calibration.false_positive_rate, scores["held_out"],
    )  # fmt: skip


def _learn(model: Model, folder: Path, normals: Normals) -> None:
    """Fits the prior on the images of the training, scores those held out, and keeps both."""
    trained_on, held_out = normals
    latents = np.asarray(encode_samples(trained_on, model.encoder, model.config, model.mesh))
    scored = latents
    if held_out:
        scored = np.asarray(encode_samples(held_out, model.encoder, model.config, model.mesh))
    if uses_prior(model.config):
        x_T = _invert(model, latents)
        fitted = prior.fit(x_T, _invert(model, scored) if held_out else None)
        log.info(
            "fitted prior: shrinkage %g, %.3f bits a number on normals it was not estimated on, "
            "against %.3f under N(0, I)",
            fitted.shrinkage, fitted.bits_per_dimension, fitted.bits_per_dimension_standard,
        )  # fmt: skip
        model = model.with_prior(fitted)
        if runtime.is_primary():
            prior.write(folder / "prior.npz", fitted)
    scores = model.score_latents(scored)
    if runtime.is_primary():
        samples = held_out or trained_on
        content = {
            "key": scoring_key(model.config, model.step),
            "held_out": bool(held_out),
            "path": [sample.path for sample in samples],
            "category": [sample.category for sample in samples],
            "heat": calibration_lib.heat_scale(np.asarray(scores.latent_norm)),
            "nll": scores.nll.tolist(),
            "map_range": scores.map_range.tolist(),
        }
        files.write_json(folder / "scores.json", content)
    runtime.barrier("normals")


def _invert(model: Model, latents: np.ndarray) -> np.ndarray:
    x_T = model.score_latents(latents).x_T
    assert x_T is not None, "only an inversion has a prior"
    return np.asarray(x_T)
