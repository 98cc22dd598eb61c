"""What normal images teach a trained model: what to compare with, and the scale of its scores.

Both are kept in the workdir, in a folder for each way of scoring, so that new images can be scored
where no training image is at hand. `reference.npz` is written first and `scores.json` last: a
folder without the latter is not used.

The scale comes from scores that are honest: of images kept out of training, and, where there are
few of those, of the training images too, each by Gaussians that were learnt without it. (The
network did see them, and so did what other images were retrieved from: docs/thresholds.md.)

Read next: `kept.py`, `normality/reference.py`, `normality/calibrations.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import TERMS
from invad_jax.data.dataset import Sample, content_hash, fingerprint, some
from invad_jax.detector import standardise
from invad_jax.errors import UnavailableError, UserError
from invad_jax.inference import kept
from invad_jax.inference.encode import encode_samples
from invad_jax.inference.model import Model
from invad_jax.inference.whitening import Learner
from invad_jax.normality import calibrations, clusters, drift, mixture, reference, whitening
from invad_jax.normality.calibration import heat_scale
from invad_jax.normality.calibrations import Calibrations
from invad_jax.normality.mixture import Component
from invad_jax.normality.reference import Learnt
from invad_jax.runtime import processes
from invad_jax.runtime.log import log
from invad_jax.runtime.workdir import Workdir, scoring_key
from invad_jax.scoring import Scores

Normals = tuple[Sequence[Sample], Sequence[Sample]]
"""Images that were trained on, and images that were held out."""
ENOUGH_HELD_OUT = 300
"""Set a threshold at a rate of 1 % by their own; with so many of each category, training images are
not asked."""
_NOT_ALIKE = "is not seen alike by all processes; is it shared?"
AT_A_TIME = 256
"""Images whose moments are summed at once: a copy of them in float64 is made."""


def calibrate(
    model: Model,
    workdir: Workdir,
    normals: Callable[[], Normals] | None,
    white: np.ndarray | None = None,
) -> Calibrations:
    """Lets the model compare with what is normal, and calibrates its scores.

    Args:
      model: as loaded.
      workdir: where what the normal images taught is kept.
      normals: gives the images, and is asked only if something is to be learnt; None when they are
        not at hand.
      white: `White.rows` of the training images, where a training has just made them.

    Raises:
      UserError: not in the workdir, and no images given, or others than were trained on.
      UnavailableError: processes of a job do not see the same there.
    """
    folder = kept.folder(workdir, model)
    known = kept.read_scores(workdir, model)
    is_known = known is not None and (
        normals is None or _known(model) or known["dataset"] == fingerprint(normals()[0])
    )
    if normals is not None and processes.primary_says(is_known) and known is None:
        known, is_known = _as_first_wrote(model, workdir), True
    if normals is not None and processes.primary_says(is_known) != is_known:
        raise UnavailableError(f"{folder}: {_NOT_ALIKE}")
    if known is not None and is_known:
        if lessons := model.paradigm.lessons:
            model.adopt(processes.as_written(partial(reference.read, folder, lessons)))
        scores = known
    elif normals is None:
        raise UserError(
            f"{workdir.path}: not calibrated for these inversion and scoring options; run "
            "`python -m invad_jax.eval` with them where the training images are"
        )
    else:
        images = normals()
        contents = [content_hash(sample.path) for sample in images[0]]
        dataset = fingerprint(images[0], contents)
        _check_same_images(model, workdir, dataset)
        of = {"dataset": dataset, "trained_on": sorted(one[: kept.DIGITS] for one in contents)}
        scores = _learn(model, workdir, images, of, white)
    fitted = kept.fit(model, scores, model.config.calibration.false_positive_rate)
    if normals is not None:
        _report_as_one(model, scores)
    _report_far_out(model, scores, fitted)
    for doubt in fitted.doubts:
        log.warning("%s", doubt)
    return fitted


def _as_first_wrote(model: Model, workdir: Workdir) -> dict[str, Any]:
    """What the first process has seen already: a shared disk may show it to others later.

    Raises:
      UnavailableError: it does not, for a minute.
    """

    def read() -> dict[str, Any]:
        known = kept.read_scores(workdir, model)
        if known is None:
            raise UserError(_NOT_ALIKE)
        return known

    try:
        return processes.as_written(read)
    except UserError as error:
        raise UnavailableError(f"{kept.folder(workdir, model)}: {error}") from error


def _report_as_one(model: Model, scores: dict[str, Any]) -> None:
    """Says that several products share a scale and a threshold, unless that was asked for."""
    categories = sorted(set(scores.get("category", ())))
    asked = model.config.scoring.components == "one"
    if len(categories) > 1 and len(model.component_names) == 1 and not asked:
        log.warning(
            "one scale and one threshold for all of %s: they are not told apart here",
            ", ".join(categories),
        )


def _report_far_out(model: Model, scores: dict[str, Any], fitted: Calibrations) -> None:
    """Names normal images that may be mistakes."""
    component = scores["component"]
    found = calibrations.far_out(scores, component, model.paradigm.terms)
    for name, one in fitted:
        paths = [scores["path"][i] for i in np.flatnonzero(found) if component[i] == name]
        if paths:
            of = f" of {name}" if name else ""
            unused = ", and are left out of its threshold" if one.left_out else ""
            log.warning(
                "normal images%s that score far above all others%s: %d, are they normal? (%s)",
                *(of, unused, len(paths), some(paths)),
            )


def _known(model: Model) -> bool:
    """Whether the images of the training are known, so that what was kept is of them."""
    return model.made_of.get("dataset") is not None


def _check_same_images(model: Model, workdir: Workdir, dataset: str) -> None:
    """Before anything is learnt: what is normal is not asked of another data set."""
    if model.made_of.get("dataset") not in (None, dataset):
        raise UserError(
            f"data.root={model.config.data.root}: its normal images are not those that "
            f"{workdir.path} was trained on, and these inversion and scoring options are not "
            "calibrated yet: run eval once with the training's own data"
        )


def _learn(
    model: Model, workdir: Workdir, normals: Normals, of: dict[str, Any], rows: np.ndarray | None
) -> dict[str, Any]:
    """Learns from the images of the training, scores normal images, and keeps both, with what
    says which images they were."""
    trained_on, held_out = normals
    folder = kept.folder(workdir, model)
    latents = np.asarray(encode_samples(trained_on, model.encoder, model.config, model.mesh))
    lessons = model.paradigm.lessons
    categories = [sample.category for sample in trained_on]
    labels = clusters.kinds(lessons.components, categories, latents)
    white = model.coordinates is not None and model.paradigm.whitened
    honest = _can_leave_out(model, labels) if lessons else white
    samples, scores, seen = list(held_out), [], []
    classes = None
    if lessons.classes:  # first: the states depend on them
        x0 = np.asarray(standardise(jnp.asarray(latents), model.latent_stats))[:, None]
        classes = mixture.fit(_components(x0, categories))
        model.adopt(Learnt(classes=classes))
    asked = not held_out or (honest and _fewest_of_a_kind(held_out) < ENOUGH_HELD_OUT)
    if lessons or asked:
        states, known_as = _states_of_training(model, latents, categories, rows)
    if lessons:
        learnt = reference.learn(lessons, _components(states, labels))
        learnt = learnt._replace(classes=classes)
        _report(learnt)
        if processes.is_primary():
            reference.write(folder, learnt)
        if jax.process_count() > 1:  # whose own may differ in the last bits
            processes.barrier("reference")
            learnt = processes.as_written(partial(reference.read, folder, lessons))
        model.adopt(learnt)
    if held_out:
        new = np.asarray(encode_samples(held_out, model.encoder, model.config, model.mesh))
        scores.append(model.judge_latents(new))
        seen.append(new)
    if asked:
        if lessons and honest:
            of_training = _scores_of_training(model, states, labels)
        else:
            of_training = model.judge(states)
        taken = np.full(len(trained_on), True)
        if not lessons:
            of_training = of_training._replace(component=known_as)
        if white and not lessons:
            component = np.asarray(known_as)
            is_new = np.bincount(component)[component] >= whitening.FEWEST
            # Those that are not, only where nothing else is known of their kind.
            taken = is_new | ~np.isin(component, _kinds_of(model, held_out, scores))
            honest = bool(is_new[taken].all())
        samples += compress(trained_on, taken)
        seen.append(latents[taken])
        scores.append(jax.tree.map(lambda values: values[taken], of_training))
    together: Scores = jax.tree.map(lambda *parts: np.concatenate(parts), *scores)
    component = np.array(model.component_names)[together.component]
    values = {term: getattr(together, term).tolist() for term in TERMS}
    typical = ~calibrations.far_out(values, component.tolist(), model.paradigm.terms)
    content = {
        "key": scoring_key(model.config, model.paradigm, model.step, model.made_of),
        **of,
        "held_out": honest or not asked,
        "path": [sample.path for sample in samples],
        "category": [sample.category for sample in samples],
        "component": component.tolist(),
        "heat": {
            name: heat_scale(np.asarray(together.latent_norm)[typical & (component == name)])
            for name in sorted(set(component.tolist()))
        },
        **values,
    }
    profile = drift.profile_of(np.concatenate(seen), np.asarray(together.latent_norm))
    kept.keep_precision(workdir, model)
    kept.forget_line(folder)
    kept.write_scores(folder, content, profile)
    return content


def _kinds_of(model: Model, held_out: Sequence[Sample], scores: Sequence[Scores]) -> np.ndarray:
    """Numbers of the components that held-out images are of, not were mistaken for."""
    if not held_out:
        return np.zeros(0, int)
    judged = np.asarray(scores[0].component)
    if model.config.scoring.components != "category":
        return judged
    of_category = [sample.category for sample in held_out]
    return judged[np.array(model.component_names)[judged] == np.array(of_category)]


def _states_of_training(
    model: Model, latents: np.ndarray, categories: Sequence[str], rows: np.ndarray | None
) -> tuple[np.ndarray, jax.Array]:
    """What is compared of the training images, (N, M, h, w, C), each as if it were new; and the
    component (N,) that the coordinates are of.

    Args:
      model: learns from them.
      latents: (N, h, w, C), from the encoder.
      categories: N names.
      rows: `White.rows`, where they are at hand.
    """
    if model.coordinates is None or not model.paradigm.whitened:
        return model.scored_states(latents), jnp.zeros(len(latents), jnp.int32)
    kinds = clusters.kinds(model.coordinates.components, categories, latents)
    names = list(model.coordinates.component_names)
    if unknown := sorted(set(kinds) - set(names)):
        raise UserError(
            f"data.root={model.config.data.root}: {unknown[0]} was trained on under another name, "
            f"one of {', '.join(names)}: give it that for this calibration"
        )
    if rows is None:
        learner = Learner(model.config, model.latent_stats, model.mesh)
        rows = learner.training_rows(learner.rest(model.coordinates, latents), kinds)
    component = jnp.array([names.index(name) for name in kinds], jnp.int32)
    return model.walk(rows), component


def _fewest_of_a_kind(samples: Sequence[Sample]) -> int:
    return min(Counter(sample.category for sample in samples).values())


def _fewest(model: Model) -> int:
    """Images of a kind of which one can be spared: Gaussians and distances need two more."""
    return 3 if model.paradigm.lessons.gaussians or model.paradigm.lessons.memory_bank else 2


def _can_leave_out(model: Model, labels: Sequence[str]) -> bool:
    return min(Counter(labels).values()) >= _fewest(model)


def _scores_of_training(model: Model, states: np.ndarray, labels: Sequence[str]) -> Scores:
    """Scores of the training images, each fold by what the others taught."""
    kind, fold = np.array(labels), whitening.folds(labels, _fewest(model))
    parts, order = [], []
    for k in np.unique(fold):
        others, these = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        learnt = reference.learn(
            model.paradigm.lessons, _components(states[others], kind[others].tolist())
        )
        parts.append(model.judge(states[these], learnt))
        order.append(these)
    back = np.argsort(np.concatenate(order))
    return jax.tree.map(lambda *rows: np.concatenate(rows)[back], *parts)


def _components(states: np.ndarray, labels: Sequence[str]) -> Iterator[Component]:
    """One kind of product after the other, a few images at a time."""
    for name in sorted(set(labels)):
        rows = np.flatnonzero(np.array(labels) == name)
        starts = range(0, len(rows), AT_A_TIME)
        yield Component(name, (states[rows[start : start + AT_A_TIME]] for start in starts))


def _report(learnt: reference.Learnt) -> None:
    if learnt.prior:
        for name, shrinkage in zip(learnt.prior.name, learnt.prior.shrinkage, strict=True):
            log.info("normals of %s: shrinkage %s", name, ", ".join(f"{a:.2f}" for a in shrinkage))
    if learnt.memory:
        log.info("normals: %d vectors kept", len(learnt.memory.vector))
