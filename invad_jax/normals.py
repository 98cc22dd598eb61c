"""What normal images teach a trained model: what to compare with, and the scale of its scores.

Both are kept in the workdir, in a folder for each way of scoring, so that new images can be scored
where no training image is at hand. `reference.npz` is written first and `scores.json` last: a
folder without the latter is not used. Read next: `reference.py`, `calibration.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from invad_jax import calibration as calibration_lib
from invad_jax import clusters, files, reference, runtime
from invad_jax.calibration import Calibration
from invad_jax.data.layouts import Sample
from invad_jax.encoding import encode_samples
from invad_jax.errors import UserError
from invad_jax.inference import Model
from invad_jax.prior import Component, FittedPrior
from invad_jax.runtime import log
from invad_jax.scoring import TERMS
from invad_jax.workdir import Workdir, scoring_key

Normals = tuple[Sequence[Sample], Sequence[Sample]]
"""Images that were trained on, and images that were held out."""


def calibrated(
    model: Model, workdir: Workdir, normals: Normals | None
) -> tuple[Model, Calibration]:
    """The model with its reference, and the calibration of its scores under the model's config.

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
    if reference.kind(model.config) != "none":
        model = model.with_reference(reference.read(folder, model.config))
    scores = files.read_json(folder / "scores.json")
    return model, calibration_lib.fit(
        {term: np.array(scores[term]) for term in TERMS}, reference.terms(model.config),
        tuple(scores["heat"]), model.config.calibration.false_positive_rate, scores["held_out"],
    )  # fmt: skip


def _learn(model: Model, folder: Path, normals: Normals) -> None:
    """Learns from the images of the training, scores those held out, and keeps both."""
    trained_on, held_out = normals
    latents = np.asarray(encode_samples(trained_on, model.encoder, model.config, model.mesh))
    scored = latents
    if held_out:
        scored = np.asarray(encode_samples(held_out, model.encoder, model.config, model.mesh))
    if reference.kind(model.config) != "none":
        labels = _labels(model, (trained_on, latents), (held_out, scored))
        learnt = reference.learn(model.config, _components(model, latents, scored, labels))
        if isinstance(learnt, FittedPrior):
            _report(learnt)
        model = model.with_reference(learnt)
        if runtime.is_primary():
            reference.write(folder, learnt)
    scores = model.score_latents(scored).scores
    if runtime.is_primary():
        samples = held_out or trained_on
        content = {
            "key": scoring_key(model.config, model.step),
            "held_out": bool(held_out),
            "path": [sample.path for sample in samples],
            "category": [sample.category for sample in samples],
            "heat": calibration_lib.heat_scale(np.asarray(scores.latent_norm)),
            **{term: getattr(scores, term).tolist() for term in TERMS},
        }
        files.write_json(folder / "scores.json", content)
    runtime.barrier("normals")


Labelled = tuple[Sequence[Sample], np.ndarray]
"""Images and their latents."""


def _labels(model: Model, trained_on: Labelled, held_out: Labelled) -> tuple[list[str], list[str]]:
    """The component that each normal image belongs to."""
    how = model.config.scoring.components
    if how == "category":
        ours, theirs = ([s.category for s in samples] for samples, _ in (trained_on, held_out))
    elif how == "one":
        ours, theirs = (["all"] * len(samples) for samples, _ in (trained_on, held_out))
    else:
        descriptor = clusters.describe(trained_on[1])
        centres = clusters.find(descriptor)
        ours, theirs = (
            [f"cluster {k}" for k in clusters.assign(rows, centres, descriptor)]
            for rows in (descriptor, clusters.describe(held_out[1][: len(held_out[0])]))
        )
    return ours, theirs


def _components(
    model: Model, latents: np.ndarray, held_out: np.ndarray, labels: tuple[list[str], list[str]]
) -> Iterator[Component]:
    """The scored states of one kind of product after the other."""
    for name in sorted(set(labels[0])):
        rows, held_rows = (np.flatnonzero(np.array(of) == name) for of in labels)
        yield Component(
            name,
            model.scored_states(latents[rows]),
            model.scored_states(held_out[held_rows]) if len(held_rows) else None,
        )


def _report(learnt: FittedPrior) -> None:
    for name, tie, shrinkage in zip(learnt.name, learnt.tie, learnt.shrinkage, strict=True):
        log.info("normals of %s: tie %s, shrinkage %s", name, _list(tie), _list(shrinkage))


def _list(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values)
