"""New images without labels: scored and drawn one by one, so that none is lost with another.

Read next: `records.py`, what becomes of each; `inference/predictor.py`, which decides.
"""

from __future__ import annotations

import itertools
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
from invad_jax.evaluation.records import OVERLAYS, PICTURE, Drawer, Drawn, Item, Recorder
from invad_jax.inference.predictions import Prediction, Predictions
from invad_jax.inference.predictor import Predictor
from invad_jax.io import names, outputs
from invad_jax.io.paths import has_file
from invad_jax.report import page, tables
from invad_jax.report.figures import Case
from invad_jax.report.pictures import SIDE
from invad_jax.runtime.log import log

PAGE = "report.html"
TABLES = {"csv": "predictions.csv", "jsonl": "predictions.jsonl"}
_TOGETHER = 256
"""Images that are drawn before their rows are written, at most."""


class Results:
    """What is known of images that are all there."""

    def __init__(self, found: inputs.Inputs, recorder: Recorder):
        self.found = found
        self.recorder = recorder
        self.overlays = names.unique(found.names, PICTURE)
        self.rows: list[dict[str, Any] | None] = [None] * len(found.paths)
        self.known: dict[int, Prediction] = {}
        """Row -> what is known of it, its map on the grid of the latents."""

    def item(self, row: int, result: Prediction | None) -> Item:
        """What is to be drawn of an image."""
        path, name = self.found.paths[row], self.found.names[row]
        return Item(path, name, self.overlays[row], result, self.found.unusable.get(row, ""))

    def add(self, row: int, drawn: Drawn) -> None:
        """Keeps one result, and writes it."""
        written, result = self.recorder.write(drawn), drawn.item.result
        if result:
            self.known[row] = result
            written |= result.terms
        self.rows[row] = written

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


def put_aside(table: Path) -> None:
    """Renames the table of an earlier run: the images of its rows may have gone meanwhile."""
    if has_file(table):
        earlier = (table.with_name(f"{table.stem}_{i}{table.suffix}") for i in itertools.count(1))
        table.replace(next(path for path in earlier if not has_file(path)))


def score(results: Results, predictor: Predictor, drawer: Drawer) -> None:
    """Fills the rows in the order of the images.

    Raises:
      UserError: no image could be read.
    """
    try:
        _fill(results, predictor, drawer)
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
) -> Iterator[list[Prediction | None]]:
    """Of all images in turn their results, or None where none came.

    Args:
      count: of the images.
      batches: indices of images, those of later batches greater, and results of these.

    Yields:
      As soon as a batch is there, those up to its last; never very many at a time.
    """
    done = 0
    for ids, some in itertools.chain(batches, [(np.array([count]), [None])]):
        results = dict(zip(ids.tolist(), some, strict=True))
        end = min(max(results, default=done - 1) + 1, count)
        for start in range(done, end, _TOGETHER):
            yield [results.get(i) for i in range(start, min(start + _TOGETHER, end))]
        done = end


def _fill(results: Results, predictor: Predictor, drawer: Drawer) -> None:
    """Fills the rows."""
    found, count = results.found, len(results.rows)
    if found.left_out:
        log.info("left out of --input: %s", inputs.summary(found.left_out))
    rows = np.array([row for row in range(count) if row not in found.unusable])
    batches = predictor.predict_files([found.paths[row] for row in rows])
    row = 0
    with tqdm(total=count, desc="predict", unit="image") as bar:
        for answers in in_order(count, ((rows[ids], some) for ids, some in batches)):
            items = [results.item(i, result) for i, result in enumerate(answers, row)]
            for drawn in drawer.draw(items):
                results.add(row, drawn)
                row += 1
                bar.update()


def make_cases(results: Results, data: DataConfig, terms: Sequence[str]) -> Iterator[Case]:
    """The images for the page, the highest scores first; `terms` are those of the score."""
    ranked = sorted(results.known, key=lambda i: -(results.rows[i] or {})["image_score"])
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
                anomaly_map=results.known[i].anomaly_map,
                image_score=row["image_score"],
                terms={name: row[name] for name in terms},
                threshold=row["threshold"],
                heat=results.known[i].heat,
                decision=row["decision"] == tables.decision_word(True),
            )
