"""New images to decisions, from Python and for the `predict` command:

    model = invad_jax.load("runs/hazelnut")
    for result in model.predict("new_parts/"):
        print(result.path, result.image_score, result.decision)

Read next: `model.py`, the compiled detector; `normality/calibrations.py`, score and threshold.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from invad_jax.config import TERMS, Config
from invad_jax.data import in_memory
from invad_jax.errors import UserError
from invad_jax.inference.bundle import BundleModel
from invad_jax.inference.calibrate import calibrate
from invad_jax.inference.kept import fit, normal_scores, read_scores
from invad_jax.inference.load import load_model
from invad_jax.inference.model import Model
from invad_jax.inference.predictions import Prediction, Predictions, is_finite, joined
from invad_jax.io.paths import to_path
from invad_jax.normality.calibrations import Calibrations
from invad_jax.runtime.log import log
from invad_jax.runtime.workdir import Source, Workdir, source_of
from invad_jax.scoring import Scores

_READERS = 8
"""Images that are decoded at the same time."""


class Predictor:
    """A trained detector with what normal images taught it."""

    def __init__(
        self,
        model: Model | BundleModel,
        calibrations: Calibrations | UserError,
        normals: Mapping[str, Any],
    ):
        """See `load`.

        Args:
          model: compiled.
          calibrations: of its scores, or why there are none.
          normals: see the property.
        """
        self.model = model
        self._calibrations = calibrations
        self._normals = normals

    @property
    def normals(self) -> Mapping[str, Any]:
        """The content of `scores.json`: of the normal images that set the thresholds.

        Raises:
          UserError: nobody has calibrated the scores.
        """
        return self._normals if self.calibrations else {}

    def predict(self, images: Any) -> Predictions:
        """Scores images and decides on each.

        Args:
          images: a path (of a folder: all images in it), a PIL image, an array of one image (H, W),
            (H, W, C) or of several (B, H, W, C), uint8 or uint16, C = 1, 3, 4; or an iterable of
            these, which may be an iterator. Any size: each is resized as one that is read from a
            file.

        Raises:
          UserError: one of them cannot be read or is something else; or there is none.
        """
        batches = list(self._batches(images))
        if not batches:
            raise UserError("nothing to score: there is no image")
        return joined(batches)

    def stream(self, images: Any) -> Iterator[Prediction]:
        """As `predict`, one after the other as they come: for what has no end or no length."""
        for batch in self._batches(images):
            yield from batch

    def predict_files(
        self, paths: Sequence[str], of: int | None = None
    ) -> Iterator[tuple[np.ndarray, Predictions]]:
        """Reads and scores files on all processes of a job, going past those that are unreadable.

        Args:
          paths: of the files.
          of: how many there are in all, by which the batch size is chosen; these if None.

        Yields:
          Indices into `paths` (b,), and the results of these. What cannot be read, or has no finite
          score, never comes.
        """
        for ids, scores in self.model.predict_paths(paths, skip_unreadable=True, of=of):
            rows = is_finite(scores)
            ids, scores = ids[rows], jax.tree.map(lambda values, rows=rows: values[rows], scores)
            yield ids, self._results([paths[i] for i in ids], scores)

    def predict_squares(self, paths: Sequence[str | None], image: np.ndarray) -> Predictions:
        """Scores images that are read and resized already.

        Args:
          paths: of each, or None.
          image: (B, S, S, 3) uint8 of the model's size; one alone has a program of its own.
        """
        return self._results(paths, self.model.predict(image))

    def threshold_at(self, false_positive_rate: float, component: str | None = None) -> float:
        """The threshold at which this share of normal images, 0..1, is called anomalous.

        Args:
          false_positive_rate: of the kind.
          component: the kind of product; not needed where there is one.

        Raises:
          UserError: a rate out of its range, no such kind, or nobody has calibrated the scores.
        """
        names = self.calibrations.names
        kind = names[0] if component is None and len(names) == 1 else component
        if kind not in names:
            raise UserError(f"component={component}: has to be one of {', '.join(names)}")
        fitted = fit(self.model, self.normals, false_positive_rate)
        return fitted.each[names.index(kind)].threshold

    def score_latents(self, latent: np.ndarray) -> Scores:
        """Scores latents as they come from the encoder: see `Model.score_latents`."""
        return self.trained.score_latents(latent)

    def denoise(self, x_t: np.ndarray, t: int | np.ndarray) -> np.ndarray:
        """One evaluation of the network: see `Model.denoise`."""
        return self.trained.denoise(x_t, t)

    @property
    def trained(self) -> Model:
        """The model of a workdir.

        Raises:
          UserError: it is a bundle.
        """
        if isinstance(self.model, BundleModel):
            raise UserError(f"{self.model.path}: takes images alone; load the workdir instead")
        return self.model

    def __getattr__(self, name: str) -> Any:
        """What `Model` has besides: `config`, `step`, `variables`, `detector` and others."""
        if name.startswith("_") or "model" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.model, name)

    def decide_at(self, threshold: float) -> Predictor:
        """The same detector with one threshold of the image score for every kind of product, which
        no normal image has set (`num_normals` is 0)."""
        known, given = self.calibrations, float(threshold)
        each = tuple(dataclasses.replace(one, threshold=given, num_normals=0) for one in known.each)
        return Predictor(self.model, dataclasses.replace(known, each=each), self.normals)

    @property
    def calibrations(self) -> Calibrations:
        """What makes one score of the terms, and a decision of it, for each kind of product.

        Raises:
          UserError: nobody has calibrated the scores yet.
        """
        if isinstance(self._calibrations, UserError):
            raise self._calibrations
        return self._calibrations

    @cached_property
    def normal_scores(self) -> dict[str, np.ndarray]:
        """The image scores of the same images: kind -> (n,) float64, rising."""
        return normal_scores(self.calibrations, self.normals)

    def _batches(self, images: Any) -> Iterator[Predictions]:
        """One compiled batch after the other."""
        data = self.model.config.data
        _ = self.model.encoder, self.calibrations  # what is wrong with them is said at once
        with ThreadPoolExecutor(_READERS) as pool:
            given = in_memory.each(images)
            batch_size = None  # of the first batch, lest the last one compiles another
            while some := list(itertools.islice(given, self.model.batch_size)):
                pixels = list(pool.map(lambda one: in_memory.read(one, data), some))
                batch_size = batch_size or self.model.batch_size_for(len(some))
                scores = self.model.predict(np.stack(pixels), batch_size)
                yield self._results([one.path for one in some], scores)

    def _results(self, paths: Sequence[str | None], scores: Scores) -> Predictions:
        terms = {name: np.asarray(getattr(scores, name), np.float64) for name in TERMS}
        known, component = self.calibrations, np.asarray(scores.component)
        deciding = [terms[term.name] for term in known.each[0].terms]
        rows, image_score = np.isfinite(deciding).all(axis=0), np.full(len(component), np.nan)
        image_score[rows] = known.image_score(
            {name: values[rows] for name, values in terms.items()}, component[rows]
        )
        side = self.model.config.data.image_size
        threshold = known.threshold(component)
        extent = np.full((len(component), 2), side) if scores.extent is None else scores.extent
        percentile = [
            100 * np.mean(self.normal_scores[known.names[k]] <= one)
            for k, one in zip(component, image_score, strict=True)
        ]
        return Predictions(
            path=tuple(paths),
            image_score=image_score,
            decision=known.decide(image_score, component),
            threshold=threshold,
            normal_percentile=np.where(rows, percentile, np.nan),
            heat=np.array([known.heat(k) for k in component]),
            component=tuple(known.names[k] for k in component),
            latent_norm=np.asarray(scores.latent_norm),
            extent=np.asarray(extent),
            image_size=side,
            **terms,
        )


def load(path: str | Path, overrides: Sequence[str] = ()) -> Predictor:
    """Loads a trained detector.

    Args:
      path: the folder that `train` or `convert` wrote, or the file that `export` wrote.
      overrides: changes as `--set` takes them, such as "inversion.num_steps=5"; of an exported
        detector, what `bundle.CHANGEABLE` lists.

    Raises:
      UserError: no checkpoint, or nothing learnt of normal images yet for these options; a file
        that is damaged.
    """
    return of_source(source_of(to_path(path), None, overrides))


def of_source(source: Source, devices: Sequence[jax.Device] | None = None) -> Predictor:
    """The detector of a workdir, on all devices or these, or of a file; see `load`."""
    if source.config is None:
        return of_bundle(source.path, source.overrides)
    return of_workdir(Workdir(source.path), source.config, devices)


def of_workdir(
    workdir: Workdir, config: Config, devices: Sequence[jax.Device] | None = None
) -> Predictor:
    """The detector of a workdir under a resolved config, on all devices or these; see `load`."""
    model = load_model(workdir, config, devices)
    try:
        return Predictor(model, calibrate(model, workdir, None), read_scores(workdir, model) or {})
    except UserError as error:
        if model.paradigm.lessons:
            raise
        return Predictor(model, error, {})  # latents can be scored, images not be decided on


def of_bundle(path: str | Path, overrides: Sequence[str] = ()) -> Predictor:
    """The detector of a file that `export` wrote; see `load`."""
    model = BundleModel(to_path(path), overrides)
    fitted = fit(model, model.normals, model.config.calibration.false_positive_rate)
    for doubt in fitted.doubts:
        log.warning("%s", doubt)
    return Predictor(model, fitted, model.normals)
