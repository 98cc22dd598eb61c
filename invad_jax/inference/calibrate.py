"""What normal images teach a trained model: what to compare with, and the scale of its scores.

Both are kept in the workdir, in a folder for each way of scoring, so that new images can be scored
where no training image is at hand. `reference.npz` is written first and `scores.json` last: a
folder without the latter is not used.

Read next: `normality/reference.py`, `normality/calibration.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax.config import TERMS
from invad_jax.data.layouts import Sample
from invad_jax.errors import UserError
from invad_jax.inference.encode import encode_samples
from invad_jax.inference.model import Model
from invad_jax.io import files
from invad_jax.normality import calibration as calibration_lib
from invad_jax.normality import clusters, reference
from invad_jax.normality.calibration import Calibration
from invad_jax.normality.mixture import Component
from invad_jax.runtime import processes
from invad_jax.runtime.log import log
from invad_jax.runtime.workdir import Workdir, scoring_key

Normals = tuple[Sequence[Sample], Sequence[Sample]]
"""Images that were trained on, and images that were held out."""


def calibrate(model: Model, workdir: Workdir, normals: Normals | None) -> Calibration:
    """Lets the model compare with what is normal, and calibrates its scores.

    Args:
      model: as loaded.
      workdir: where what the normal images taught is kept.
      normals: the images, or None when they are not at hand.

    Raises:
      UserError: not in the workdir, and no images given.
    """
    folder = workdir.normals(model.config, model.paradigm, model.step)
    if (folder / "scores.json").is_file():
        if model.paradigm.lessons:
            model.adopt(reference.read(folder, model.paradigm.lessons))
        scores = files.read_json(folder / "scores.json")
    elif normals is None:
        raise UserError(
            f"{workdir.path}: not calibrated for these inversion and scoring options; run "
            "`python -m invad_jax.eval` with them where the training images are"
        )
    else:
        scores = _learn(model, folder, normals)
    return calibration_lib.fit(
        {term: np.array(scores[term]) for term in TERMS},
        model.paradigm.terms,
        tuple(scores["heat"]),
        model.config.calibration.false_positive_rate,
        scores["held_out"],
    )


def _learn(model: Model, folder: Path, normals: Normals) -> dict[str, Any]:
    """Learns from the images of the training, scores those held out, and keeps both."""
    trained_on, held_out = normals
    latents = np.asarray(encode_samples(trained_on, model.encoder, model.config, model.mesh))
    scored = latents
    if held_out:
        scored = np.asarray(encode_samples(held_out, model.encoder, model.config, model.mesh))
    lessons = model.paradigm.lessons
    if lessons:
        categories = [sample.category for sample in trained_on]
        labels = clusters.kinds(lessons.components, categories, latents)
        learnt = reference.learn(lessons, _components(model, latents, labels))
        _report(learnt)
        model.adopt(learnt)
        if processes.is_primary():
            reference.write(folder, learnt)
    scores = model.score_latents(scored)
    samples = held_out or trained_on
    content = {
        "key": scoring_key(model.config, model.paradigm, model.step),
        "held_out": bool(held_out),
        "path": [sample.path for sample in samples],
        "category": [sample.category for sample in samples],
        "heat": calibration_lib.heat_scale(np.asarray(scores.latent_norm)),
        **{term: getattr(scores, term).tolist() for term in TERMS},
    }
    if processes.is_primary():
        files.write_json(folder / "scores.json", content)
    processes.barrier("normals")
    return content


def _components(model: Model, latents: np.ndarray, labels: Sequence[str]) -> Iterator[Component]:
    """One kind of product after the other, inverted batch by batch."""
    for name in sorted(set(labels)):
        rows = np.flatnonzero(np.array(labels) == name)
        starts = range(0, len(rows), model.batch_size)
        batches = (latents[rows[start : start + model.batch_size]] for start in starts)
        yield Component(name, map(model.scored_states, batches))


def _report(learnt: reference.Learnt) -> None:
    if learnt.prior:
        for name, shrinkage in zip(learnt.prior.name, learnt.prior.shrinkage, strict=True):
            log.info("normals of %s: shrinkage %s", name, ", ".join(f"{a:.2f}" for a in shrinkage))
    if learnt.memory:
        log.info("normals: %d vectors kept", len(learnt.memory.vector))
