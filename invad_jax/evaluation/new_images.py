"""New images without labels: scored and drawn one by one, so that none is lost with another.

Read next: `inference/predictor.py`, which decides.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from invad_jax.config import DataConfig
from invad_jax.config.io import to_dict
from invad_jax.data import inputs, preprocess
from invad_jax.errors import UserError
from invad_jax.inference.predictor import Prediction, Predictor
from invad_jax.io import names, outputs
from invad_jax.report import page, tables
from invad_jax.report.figures import Case, write_overlay
from invad_jax.runtime import processes
from invad_jax.runtime.log import log

CASES_ON_THE_PAGE = 60
"""Each adds about 50 kB."""
OVERLAY_SIDE = 1600
"""Pixels of the longer side of an overlay, at most: one of 20 megapixels takes 12 s and 1.2 GB."""
TABLE, PAGE, OVERLAYS = "predictions.csv", "report.html", "overlays"


class Results:
    """What is known of each image so far, and where it is written."""

    def __init__(self, found: inputs.Inputs, out: Path, data: DataConfig, overlays: bool):
        self.found = found
        self.data = data
        self.out = out
        self.overlays = names.unique(found.names, ".png") if overlays else None
        self.rows: list[dict[str, Any] | None] = [None] * len(found.paths)
        self.maps: dict[int, np.ndarray] = {}
        """Row -> (h, w) float32, on the grid of the latents."""
        self.heat: dict[int, tuple[float, float]] = {}

    def add(self, row: int, result: Prediction) -> None:
        """Keeps one result and draws it; a picture that cannot be drawn loses no score."""
        error, overlay = "", None
        if self.overlays is not None and processes.is_primary():
            overlay = f"{OVERLAYS}/{self.overlays[row]}"
            try:
                image = preprocess.read_original(self.found.paths[row], self.data, OVERLAY_SIDE)
                write_overlay(self.out / overlay, image, result.latent_norm, result.heat)
            except UserError as problem:
                error, overlay = f"no overlay: {problem}", None
        self.maps[row], self.heat[row] = result.latent_norm, result.heat
        self.rows[row] = {
            "path": self.found.paths[row],
            "image_score": result.image_score,
            "threshold": result.threshold,
            "decision": tables.decision_word(result.decision),
            "component": result.component,
            "normal_percentile": result.normal_percentile,
            "overlay": overlay,
            "error": error,
            **result.terms,
        }

    def fail(self, row: int, reason: str) -> None:
        """Keeps why there is no result."""
        path = self.found.paths[row]
        empty = dict.fromkeys(tables.PREDICTION_COLUMNS)
        error = reason.removeprefix(f"{path}: ")
        self.rows[row] = {**empty, "path": path, "decision": tables.UNREADABLE, "error": error}

    @property
    def scored(self) -> list[dict[str, Any]]:
        """Rows of images that have a score."""
        return [row for row in self.rows if row and row["decision"] != tables.UNREADABLE]

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Rows of images that have none, or no picture."""
        return [row for row in self.rows if row and row["error"]]

    def write_table(self) -> None:
        """Writes `predictions.csv` with all rows that there are, if there are any."""
        rows = [row for row in self.rows if row]
        if rows and processes.is_primary():
            tables.write_predictions_csv(self.out / TABLE, rows)


def prepare(out: Path, found: inputs.Inputs, data: DataConfig, overlays: bool) -> Results:
    """Makes a folder ours, and says what of the images is left out.

    Args:
      out: the folder.
      found: the images.
      data: how they are read.
      overlays: whether to draw one for each.

    Raises:
      UserError: something there would be replaced that was not written by this command.
    """
    results = Results(found, out, data, overlays)
    if processes.is_primary():
        outputs.claim(out, "predict", (TABLE, PAGE, OVERLAYS))
        if results.overlays is not None:
            _check_apart(found.paths, out / OVERLAYS, results.overlays)
        if found.left_out:
            log.info("left out of --input: %s", inputs.summary(found.left_out))
    return results


def score(results: Results, predictor: Predictor) -> None:
    """Fills the rows, and writes the table, whatever ends it.

    Raises:
      UserError: no image could be read.
    """
    try:
        _fill(results, predictor)
    finally:  # a disk that is full or a Ctrl-C loses nothing that is known
        results.write_table()
    if not results.scored:
        processes.barrier("predicted")  # the primary process has written
        first = results.failed[0]
        raise UserError(
            f"{first['path']}: {first['error']}; none of {len(results.rows)} images could be read"
        )


def write_page(results: Results, predictor: Predictor, workdir: Path, command: str) -> None:
    """Writes the page, and says how many images are anomalous and how many have an error."""
    config, rows = predictor.model.config, [row for row in results.rows if row]
    calibrations = predictor.calibrations
    if processes.is_primary():
        page.write_html(
            results.out / PAGE, f"{len(rows)} new images, by {workdir}", command, to_dict(config),
            calibrations, rows, make_cases(results, calibrations.terms),
        )  # fmt: skip
        _report(results)
    processes.barrier("predicted")


def _check_apart(paths: Sequence[str], folder: Path, overlays: Sequence[str]) -> None:
    """Raises UserError if an overlay would replace an image, by whatever links it is reached."""
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


def _fill(results: Results, predictor: Predictor) -> None:
    """Fills the rows."""
    found = results.found
    for row, reason in found.unusable.items():
        results.fail(row, reason)
    rows = [row for row in range(len(found.paths)) if row not in found.unusable]
    with tqdm(
        total=len(rows), desc="predict", unit="image", disable=not processes.is_primary()
    ) as bar:
        for ids, predictions in predictor.predict_files([found.paths[row] for row in rows]):
            for i, prediction in zip(ids, predictions, strict=True):
                results.add(rows[i], prediction)
                bar.update()
    for row in rows:
        if results.rows[row] is None:
            results.fail(row, _why_unreadable(found.paths[row], results.data))


def _why_unreadable(path: str, data: DataConfig) -> str:
    """Reads once more what could not be read, for the reason."""
    try:
        preprocess.read_image(path, data)
    except UserError as error:
        return str(error)
    return "could not be read when it was its turn, or has no finite score"


def _report(results: Results) -> None:
    anomalous = sum(row["decision"] == tables.decision_word(True) for row in results.scored)
    log.info(
        "%d of %d images anomalous; written to %s", anomalous, len(results.scored), results.out
    )
    failed = results.failed
    for row in failed[:3]:
        log.warning("%s: %s", row["path"], row["error"])
    if failed:
        log.warning(
            "%d of %d images with an error, in the column `error` of %s",
            len(failed), len(results.rows), results.out / TABLE,
        )  # fmt: skip


def make_cases(results: Results, terms: Sequence[str]) -> list[Case]:
    """The images with the highest scores, for the page; `terms` are those of the score."""
    ranked = sorted(results.maps, key=lambda i: -(results.rows[i] or {})["image_score"])
    cases = []
    for i in ranked[:CASES_ON_THE_PAGE]:
        row = results.rows[i] or {}
        with suppress(UserError):  # a file that has gone since
            cases.append(
                Case(
                    path=row["path"],
                    category="",
                    defect="",
                    gt_label=None,
                    image=preprocess.read_image(row["path"], results.data),
                    gt_mask=None,
                    anomaly_map=results.maps[i],
                    image_score=row["image_score"],
                    terms={name: row[name] for name in terms},
                    threshold=row["threshold"],
                    heat=results.heat[i],
                    decision=row["decision"] == tables.decision_word(True),
                )
            )
    return cases
