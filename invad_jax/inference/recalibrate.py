"""The line's own good images in the place of the training's: thresholds without a training.

What compares stays as it is; the scale of the scores, the thresholds and the heat are made of the
new images. A kind of product of which there are too few keeps its own. Read next: `calibrate.py`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from invad_jax.config import TERMS
from invad_jax.data import preprocess
from invad_jax.data.dataset import Sample, content_hash, some
from invad_jax.errors import UserError
from invad_jax.inference import bundle, exporting, kept, packing
from invad_jax.inference.bundle import BundleModel
from invad_jax.inference.encode import encode_samples
from invad_jax.inference.model import Model
from invad_jax.inference.predictions import is_finite
from invad_jax.io import files
from invad_jax.normality import calibrations, drift
from invad_jax.normality.calibration import heat_scale
from invad_jax.normality.calibrations import Calibrations
from invad_jax.normality.drift import Profile
from invad_jax.runtime.log import log
from invad_jax.runtime.workdir import Workdir
from invad_jax.scoring import Scores

FILES = (kept.SCORES, kept.PROFILE)


class Scored(NamedTuple):
    """Good images through the detector."""

    paths: list[str]
    component: list[str]
    """The kinds that they were judged as."""
    terms: dict[str, np.ndarray]
    """(n,) float64 each."""
    latent_norm: np.ndarray
    """(n, h, w) float32."""
    profile: Profile | None
    """None of a bundle, which shows no latents."""

    def rows(self, chosen: np.ndarray) -> Scored:
        """Some of the images, by (n,) bool."""
        return Scored(
            list(compress(self.paths, chosen)),
            list(compress(self.component, chosen)),
            {name: values[chosen] for name, values in self.terms.items()},
            self.latent_norm[chosen],
            self.profile.rows(chosen) if self.profile else None,
        )


def not_trained_on(stored: Mapping[str, Any], paths: Sequence[str]) -> list[str]:
    """The images that are no training images, which meet themselves and score lower than new ones.

    Args:
      stored: the content of `scores.json`.
      paths: of good images.

    Raises:
      UserError: all are.
    """
    known, seen = set(stored["trained_on"]), set[str]()
    for path in paths:
        with contextlib.suppress(UserError):  # what cannot be read is said later
            seen |= {path} if content_hash(path)[: kept.DIGITS] in known else set()
    if paths and seen.issuperset(paths):
        raise UserError(
            f"{paths[0]}: was trained on, and so was every other of {len(paths)} images"
        )
    if seen:
        log.warning("left out, as they were trained on: %d (%s)", len(seen), some(sorted(seen)))
    return [path for path in paths if path not in seen]


def score(model: Model | BundleModel, paths: Sequence[str]) -> Scored:
    """Scores good images; names those that cannot be read or scored, and goes past them.

    Raises:
      UserError: none can be.
    """
    reasons = {path: preprocess.why_unreadable(path, model.config.data) for path in paths}
    for reason in filter(None, reasons.values()):
        log.warning("left out: %s", reason)
    readable = [path for path in paths if not reasons[path]]
    if not readable:
        raise UserError(f"{paths[0]}: cannot be read, nor can any other of {len(paths)} images")
    profile = None
    if isinstance(model, Model):
        samples = [Sample(path, "", "good", 0) for path in readable]
        latents = np.asarray(encode_samples(samples, model.encoder, model.config, model.mesh))
        scores: Scores = model.judge_latents(latents)
        profile = drift.profile_of(latents, np.asarray(scores.latent_norm))
    else:
        scores = _by_bundle(model, readable)
    rows = is_finite(scores)
    for i in np.flatnonzero(~rows):
        log.warning("left out: %s: has no finite score", readable[i])
    if not rows.any():
        raise UserError(f"{readable[0]}: has no finite score, nor has any other of {len(paths)}")
    return Scored(
        readable,
        [model.component_names[k] for k in np.asarray(scores.component)],
        {name: np.asarray(getattr(scores, name), np.float64) for name in TERMS},
        np.asarray(scores.latent_norm),
        profile,
    ).rows(rows)


def of_enough(new: Scored) -> Scored:
    """Those of kinds that there are `drift.FEWEST` images of or more: of few others a kind was
    misjudged, and a threshold of few says nothing.

    Raises:
      UserError: there is no such kind.
    """
    counts = Counter(new.component)
    rows = np.array([counts[name] >= drift.FEWEST for name in new.component])
    if not rows.any():
        raise UserError(
            f"{len(rows)} new good images: too few to set a threshold; it takes {drift.FEWEST} "
            "of a kind"
        )
    for i in np.flatnonzero(~rows):
        log.warning(
            "left out: %s: was taken for %s, of which there are too few to set a threshold",
            new.paths[i],
            new.component[i],
        )
    return new.rows(rows)


def merged(
    model: Model | BundleModel, stored: Mapping[str, Any], new: Scored
) -> tuple[dict[str, Any], np.ndarray]:
    """The content of `scores.json` with new images for the kinds that there are some of.

    Args:
      model: names the terms of the score.
      stored: the content so far.
      new: the good images.

    Returns:
      The content, and which of the stored rows stay, (n,) bool.
    """
    kinds = sorted(set(new.component))
    stays = np.array([name not in kinds for name in stored["component"]], bool)
    typical = ~calibrations.far_out(new.terms, new.component, model.paradigm.terms)
    heat = dict(stored["heat"])
    for name in kinds:
        own = np.array(new.component) == name
        heat[name] = heat_scale(new.latent_norm[typical & own])
    honest = stored["held_out"]  # True: all kinds
    others = (model.component_names if honest else ()) if isinstance(honest, bool) else honest
    content = dict(stored) | {"heat": heat, "held_out": sorted({*others, *kinds})}
    columns = {"path": new.paths, "component": new.component, "category": new.component}
    for name, values in {**columns, **{t: new.terms[t].tolist() for t in TERMS}}.items():
        if name in stored:
            old = [v for v, stay in zip(stored[name], stays, strict=True) if stay]
            content[name] = old + list(values)
    return content, stays


def in_workdir(model: Model, workdir: Workdir, new: Scored) -> Calibrations:
    """Calibrates a workdir on new images; what it had waits beside it.

    Raises:
      UserError: it is not calibrated for these options yet.
    """
    folder = kept.folder(workdir, model)
    stored = kept.read_scores(workdir, model)
    if stored is None or new.profile is None:
        raise UserError(f"{workdir.path}: not calibrated for these inversion and scoring options")
    content, stays = merged(model, stored, new)
    profile = kept.read_profile(workdir, model)
    _keep_aside(folder, workdir)
    if not stays.any():
        together: Profile | None = new.profile
    else:
        together = drift.joined(profile.rows(stays), new.profile) if profile else None
    kept.write_scores(folder, content, together)
    return kept.fit(model, content, model.config.calibration.false_positive_rate)


def undo(model: Model, workdir: Workdir) -> None:
    """Goes back to the calibration of the training.

    Raises:
      UserError: it is in use.
    """
    folder = kept.folder(workdir, model)
    if not (folder / kept.OF_TRAINING / FILES[0]).is_file():
        raise UserError(f"{workdir.path}: has the calibration of its training")
    if (folder / kept.OF_TRAINING / kept.RATE).is_file():  # older ones have none
        workdir.keep_rate(files.read_json(folder / kept.OF_TRAINING / kept.RATE))
        (folder / kept.OF_TRAINING / kept.RATE).unlink()
    for name in reversed(FILES):
        if (folder / kept.OF_TRAINING / name).is_file():
            (folder / kept.OF_TRAINING / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def compare(
    calibrated: Calibrations,
    stored: Mapping[str, Any],
    profile: Profile | None,
    new: Scored,
) -> dict[str, list[drift.Finding]]:
    """What has moved, for each kind of which there are new images.

    Args:
      calibrated: of the stored images.
      stored: the content of `scores.json`.
      profile: of the same images, where it was kept.
      new: good images of today.
    """
    before, found = np.array(stored["component"]), {}
    values = {term: np.array(stored[term]) for term in TERMS}
    for k, (name, one) in enumerate(calibrated):
        own, old = np.array(new.component) == name, before == name
        if own.any():
            groups = [
                drift.Group(
                    calibrated.image_score(terms, np.full(len(rows), k))[rows],
                    some.rows(rows) if some is not None else None,
                )
                for terms, rows, some in ((values, old, profile), (new.terms, own, new.profile))
            ]
            found[name] = drift.compare(groups[0], groups[1], one)
    return found


def in_bundle(model: BundleModel, new: Scored, out: Path) -> Calibrations:
    """Writes a bundle that is calibrated on new images.

    Args:
      model: the bundle so far.
      new: the good images.
      out: the file to write.
    """
    content, _ = merged(model, model.normals, new)
    rate = model.config.calibration.false_positive_rate
    fitted = kept.fit(model, content, rate)
    found = model.outputs(model.pictures.image)
    score = fitted.image_score({name: found[name] for name in TERMS}, found["component"])
    decision = fitted.decide(score, found["component"])
    pictures = model.pictures._replace(image_score=score, decision=decision)
    bundle.write(
        out,
        model.exported(exporting.constants_of(fitted)),
        model.about | packing.about_calibration(fitted, model.config),
        content,
        pictures,
    )
    return fitted


def _keep_aside(folder: Path, workdir: Workdir) -> None:
    """Copies the calibration of the training, once; the table last, which says that it is whole."""
    aside = folder / kept.OF_TRAINING
    if (aside / FILES[0]).is_file():
        return
    files.write_json(aside / kept.RATE, workdir.read_config().calibration.false_positive_rate)
    for name in reversed(FILES):
        if (folder / name).is_file():
            with files.replaced(aside / name) as temporary:
                temporary.write_bytes(files.read_bytes(folder / name))


def _by_bundle(model: BundleModel, paths: Sequence[str]) -> Scores:
    batches = [scores for _, scores in model.predict_paths(paths)]
    fields = ("component", "latent_norm", *TERMS)
    columns: dict[str, Any] = {
        name: np.concatenate([np.asarray(getattr(one, name)) for one in batches]) for name in fields
    }
    return batches[0]._replace(**columns)
