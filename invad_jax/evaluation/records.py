"""What becomes of one image: its row, its overlay, its place among the good or the bad.

Read next: `new_images.py`, images that are all there; `arriving.py`, images that come one by one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from invad_jax.config import DataConfig
from invad_jax.data import preprocess
from invad_jax.errors import UserError
from invad_jax.evaluation.tally import Tally
from invad_jax.inference.predictions import Prediction
from invad_jax.io import files, names, outputs
from invad_jax.report import tables
from invad_jax.report.figures import write_overlay

OVERLAY_SIDE = 1600
"""Pixels of the longer side of an overlay, at most: one of 20 megapixels takes 12 s and 1.2 GB."""
OVERLAYS = "overlays"
SORTED = {"normal": "ok", "anomalous": "ng", tables.UNREADABLE: "unreadable"}
"""Decision -> the folder that its images are sorted into."""


class Sorting(NamedTuple):
    """Where images are sorted into, and how they come there."""

    folder: Path
    by: Literal["copy", "link"]

    def claim(self) -> None:
        """Makes the folders ours.

        Raises:
          UserError: they hold what was not sorted by this command.
        """
        outputs.claim(self.folder, "predict", tuple(SORTED.values()), option="--sort-into")


class Recorder:
    """Writes what is known of images as they come."""

    def __init__(
        self,
        table: tables.PredictionStream,
        data: DataConfig,
        out: Path | None,
        sorting: Sorting | None,
        tally: Tally | None = None,
    ):
        """See `add`.

        Args:
          table: takes the rows.
          data: how images are read.
          out: gets `overlays/`; None: there are none.
          sorting: None: images stay where they are.
          tally: counts the rows; None: one of its own.
        """
        self._table = table
        self.data = data
        self.out = out
        self._sorting = sorting
        self._places = names.Taken()
        self.tally = tally or Tally()

    def add(self, path: str, name: str, overlay: str, result: Prediction) -> dict[str, Any]:
        """Draws, sorts and writes one result; what of it fails loses no score.

        Args:
          path: of the image.
          name: relative, where it lies below what was given.
          overlay: name of its overlay.
          result: of the detector.

        Returns:
          The row.
        """
        errors: list[str] = []
        row = {
            "path": path,
            "image_score": result.image_score,
            "threshold": result.threshold,
            "decision": tables.decision_word(result.decision),
            "component": result.component,
            "normal_percentile": result.normal_percentile,
            "regions": self._regions(path, result),
            "overlay": self._drawn(path, overlay, result, errors),
            "terms": result.terms,
        }
        return self._finished(row, name, errors)

    def fail(self, path: str, name: str, reason: str) -> dict[str, Any]:
        """Writes why there is no result."""
        empty = dict.fromkeys((*tables.PREDICTION_COLUMNS, "terms"))
        row = {**empty, "path": path, "decision": tables.UNREADABLE}
        return self._finished(row, name, [reason.removeprefix(f"{path}: ")])

    def close(self) -> None:
        """Closes the table."""
        self._table.close()

    def _finished(self, row: dict[str, Any], name: str, errors: list[str]) -> dict[str, Any]:
        self._sort(row, name, errors)
        row["error"] = "; ".join(errors)
        self.tally.add(row)
        self._table.write(row)
        return row

    def _regions(self, path: str, result: Prediction) -> list[Mapping[str, Any]]:
        try:
            size = preprocess.size_of(path, self.data)
        except UserError:  # has gone since
            size = None
        return [region._asdict() for region in result.regions(size)]

    def _drawn(self, path: str, overlay: str, result: Prediction, errors: list[str]) -> str | None:
        if self.out is None:
            return None
        place = f"{OVERLAYS}/{overlay}"
        try:
            image = preprocess.read_original(path, self.data, OVERLAY_SIDE)
            write_overlay(self.out / place, image, result.latent_norm, result.heat)
        except UserError as problem:
            errors.append(f"no overlay: {problem}")
            return None
        return place

    def _sort(self, row: Mapping[str, Any], name: str, errors: list[str]) -> None:
        """Puts the image into the folder of its decision, and takes it out of the others."""
        if not self._sorting or not os.path.isfile(row["path"]):
            return
        folder, own = self._sorting.folder, SORTED[row["decision"]]
        place = self._places.name(row["path"], name, "")
        try:
            for other in set(SORTED.values()) - {own}:
                (folder / other / place).unlink(missing_ok=True)
            _put(row["path"], folder / own / place, self._sorting.by)
        except UserError as problem:
            errors.append(f"not sorted: {problem}")


def _put(source: str, target: Path, by: str) -> None:
    """A copy, or a symbolic link: the image itself is never touched."""
    if by == "link":
        files.replace_link(target, os.path.abspath(source))
        return
    with files.replaced(target) as temporary:
        shutil.copyfile(source, temporary)
