"""New images without labels: scored and drawn one by one, so that none is lost with another.

Read next: `records.py`, what becomes of each; `inference/predictor.py`, which decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from invad_jax.config import DataConfig
from invad_jax.config.io import to_dict
from invad_jax.data import inputs, preprocess
from invad_jax.errors import UserError
from invad_jax.evaluation.records import OVERLAYS, Recorder
from invad_jax.inference.predictions import Prediction, Predictions
from invad_jax.inference.predictor import Predictor
from invad_jax.io import names, outputs
from invad_jax.report import page, tables
from invad_jax.report.figures import Case
from invad_jax.report.pictures import SIDE
from invad_jax.runtime.log import log

PAGE = "report.html"
TABLES = {"csv": "predictions.csv", "jsonl": "predictions.jsonl"}


class Results:
    """What is known of images that are all there."""

    def __init__(self, found: inputs.Inputs, recorder: Recorder):
        self.found = found
        self.recorder = recorder
        self.overlays = names.unique(found.names, ".png")
        self.rows: list[dict[str, Any] | None] = [None] * len(found.paths)
        self.maps: dict[int, np.ndarray] = {}
        """Row -> (h, w) float32, on the grid of the latents."""
        self.heat: dict[int, tuple[float, float]] = {}

    def add(self, row: int, result: Prediction) -> None:
        """Keeps one result, and writes it."""
        path, name = self.found.paths[row], self.found.names[row]
        self.maps[row], self.heat[row] = result.latent_norm, result.heat
        written = self.recorder.add(path, name, self.overlays[row], result)
        self.rows[row] = {**written, **result.terms}

    def fail(self, row: int, reason: str) -> None:
        """Keeps why there is no result, and writes it."""
        path, name = self.found.paths[row], self.found.names[row]
        self.rows[row] = self.recorder.fail(path, name, reason)

    @property
    def scored(self) -> list[dict[str, Any]]:
        """Rows of images that have a score."""
        return [row for row in self.rows if row and row["decision"] != tables.UNREADABLE]

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Rows of images that have none, or no picture."""
        return [row for row in self.rows if row and row["error"]]


def claim(out: Path, kind: str) -> None:
    """Makes a folder ours, for a table that is `csv` or `jsonl`.

    Raises:
      UserError: something there would be replaced that was not written by this command.
    """
    outputs.claim(out, "predict", (TABLES[kind], PAGE, OVERLAYS))


def score(results: Results, predictor: Predictor) -> None:
    """Fills the rows in the order of the images.

    Raises:
      UserError: no image could be read.
    """
    try:
        _fill(results, predictor)
    finally:
        results.recorder.close()
    if not results.scored:
        first = results.failed[0]
        raise UserError(
            f"{first['path']}: {first['error']}; none of {len(results.rows)} images could be read"
        )


def write_page(
    results: Results, predictor: Predictor, out: Path, source: Path, command: str
) -> None:
    """Writes the page.

    Args:
      results: of all images.
      predictor: made them.
      out: the folder.
      source: workdir or bundle.
      command: what was typed.
    """
    config, rows = predictor.model.config, [row for row in results.rows if row]
    calibrations = predictor.calibrations
    page.write_html(
        out / PAGE,
        f"{len(rows)} new images, by {source}",
        command,
        to_dict(config),
        calibrations,
        rows,
        make_cases(results, config.data, calibrations.terms),
        normals=predictor.normal_scores,
    )


def check_apart(out: Path, paths: Sequence[str], overlays: Sequence[str]) -> None:
    """Raises UserError if an overlay would replace an image, by whatever links it is reached.

    Args:
      out: the folder of `overlays/`.
      paths: of the images.
      overlays: names of their overlays.
    """
    folder = out / OVERLAYS
    real: dict[str, str] = {}

    def place(path: str) -> tuple[str, str]:
        parent, name = os.path.split(path)
        if parent not in real:
            real[parent] = os.path.realpath(parent)
        return real[parent], name

    images = {place(path) for path in paths}
    for name in overlays:
        path = os.path.join(folder, name)
        if place(path) in images:
            raise UserError(f"--out: {path} is an image of --input; give another folder")


def in_order(
    count: int, batches: Iterable[tuple[np.ndarray, Predictions]]
) -> Iterator[Prediction | None]:
    """Of every image in turn its result, or None where none came.

    Args:
      count: of the images.
      batches: indices of images, those of later batches greater, and results of these.
    """
    results = (
        one
        for ids, some in batches
        for one in sorted(zip(ids.tolist(), some, strict=True), key=lambda one: one[0])
    )
    index, result = -1, None
    for i in range(count):
        if index < i:
            index, result = next(results, (count, None))
        yield result if index == i else None


def _fill(results: Results, predictor: Predictor) -> None:
    """Fills the rows."""
    found, data = results.found, predictor.model.config.data
    if found.left_out:
        log.info("left out of --input: %s", inputs.summary(found.left_out))
    rows = [row for row in range(len(found.paths)) if row not in found.unusable]
    answers = in_order(len(rows), predictor.predict_files([found.paths[row] for row in rows]))
    for row in tqdm(range(len(found.paths)), desc="predict", unit="image"):
        result = None if row in found.unusable else next(answers)
        if result:
            results.add(row, result)
        else:
            reason = found.unusable.get(row) or why_unreadable(found.paths[row], data)
            results.fail(row, reason)


def why_unreadable(path: str, data: DataConfig) -> str:
    """Reads once more what could not be read, for the reason."""
    try:
        preprocess.read_image(path, data)
    except UserError as error:
        return str(error)
    return "could not be read when it was its turn, or has no finite score"


def make_cases(results: Results, data: DataConfig, terms: Sequence[str]) -> Iterator[Case]:
    """The images for the page, the highest scores first; `terms` are those of the score."""
    ranked = sorted(results.maps, key=lambda i: -(results.rows[i] or {})["image_score"])
    for i in ranked:
        row = results.rows[i] or {}
        with suppress(UserError):  # a file that has gone since
            yield Case(
                path=row["path"],
                category="",
                defect="",
                gt_label=None,
                image=preprocess.read_original(row["path"], data, SIDE),
                gt_mask=None,
                anomaly_map=results.maps[i],
                image_score=row["image_score"],
                terms={name: row[name] for name in terms},
                threshold=row["threshold"],
                heat=results.heat[i],
                decision=row["decision"] == tables.decision_word(True),
            )
