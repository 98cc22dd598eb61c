"""What becomes of one image: its row, its overlay, its place among the good or the bad.

Read next: `new_images.py`, images that are all there; `arriving.py`, images that come one by one.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from invad_jax.config import DataConfig
from invad_jax.data import preprocess
from invad_jax.errors import UserError
from invad_jax.evaluation.tally import Tally
from invad_jax.inference.predictions import Prediction
from invad_jax.io import files, names, outputs
from invad_jax.io.paths import has_file, is_remote, open_binary, to_path
from invad_jax.report import tables
from invad_jax.report.figures import write_overlay

OVERLAY_SIDE = 1600
"""Pixels of the longer side of an overlay, at most: one of 20 megapixels takes 12 s and 1.2 GB."""
_DRAWERS = 8
"""Images that are drawn at the same time, while the devices are at the next batch."""
OVERLAYS, PICTURE = "overlays", ".jpg"
"""The folder of the overlays, and the end of their names."""
_NOT_SEEN = "could not be read when it was its turn, or has no finite score"
SORTED = {"normal": "ok", "anomalous": "ng", tables.UNREADABLE: "unreadable"}
"""Decision -> the folder that its images are sorted into."""


class Sorting(NamedTuple):
    """Where images are sorted into, and how they come there."""

    folder: Path
    by: Literal["copy", "link"]

    def claim(self) -> None:
        """Makes the folders ours.

        Raises:
          UserError: they hold what was not sorted by this command, or can hold no links.
        """
        if self.by == "link" and is_remote(self.folder):
            raise UserError(f"--sort-into {self.folder}: a bucket has no links; --sort-by copy")
        outputs.claim(self.folder, "predict", tuple(SORTED.values()), option="--sort-into")


class Item(NamedTuple):
    """One image and what the detector says of it."""

    path: str
    name: str
    """Relative, where it lies below what was given."""
    overlay: str
    """Name of its overlay."""
    result: Prediction | None
    """None: there is none."""
    reason: str = ""
    """Why; empty: reading it tells."""


class Drawn(NamedTuple):
    """A row that is not written yet, without `error`."""

    item: Item
    row: dict[str, Any]
    errors: list[str]


class Drawer:
    """Makes rows and overlays of images, several at a time; what of one fails loses no score."""

    def __init__(self, data: DataConfig, out: Path | None):
        """See `draw`.

        Args:
          data: how images are read.
          out: gets `overlays/`; None: there are none.
        """
        self.out = out
        self._data = data
        self._pool = ThreadPoolExecutor(_DRAWERS)

    def draw(self, items: Iterable[Item]) -> Iterator[Drawn]:
        """Those of some images, in their order."""
        return self._pool.map(self._drawn, items)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _drawn(self, item: Item) -> Drawn:
        result, errors = item.result, list[str]()
        if result is None:
            empty = dict.fromkeys((*tables.PREDICTION_COLUMNS, "terms"))
            row = {**empty, "path": item.path, "decision": tables.UNREADABLE}
            reason = item.reason or preprocess.why_unreadable(item.path, self._data) or _NOT_SEEN
            return Drawn(item, row, [reason.removeprefix(f"{item.path}: ")])
        row = {
            "path": item.path,
            "image_score": result.image_score,
            "threshold": result.threshold,
            "decision": tables.decision_word(result.decision),
            "component": result.component,
            "normal_percentile": result.normal_percentile,
            "regions": self._regions(item.path, result),
            "overlay": self._overlay(item, result, errors),
            "terms": result.terms,
        }
        return Drawn(item, row, errors)

    def _regions(self, path: str, result: Prediction) -> list[Mapping[str, Any]]:
        try:
            size = preprocess.size_of(path, self._data)
        except UserError:  # has gone since
            size = None
        return [region._asdict() for region in result.regions(size)]

    def _overlay(self, item: Item, result: Prediction, errors: list[str]) -> str | None:
        if self.out is None:
            return None
        place = f"{OVERLAYS}/{item.overlay}"
        try:
            image = preprocess.original(item.path, self._data, OVERLAY_SIDE)
            write_overlay(self.out / place, image, result.anomaly_map, result.heat)
        except UserError as problem:
            errors.append(f"no overlay: {problem}")
            return None
        return place


class Recorder:
    """Sorts images and writes their rows, in the order in which they come."""

    def __init__(
        self, table: tables.PredictionStream, sorting: Sorting | None, tally: Tally | None = None
    ):
        """See `write`.

        Args:
          table: takes the rows.
          sorting: None: images stay where they are.
          tally: counts the rows; None: one of its own.
        """
        self._table = table
        self._sorting = sorting
        self._places = names.Taken()
        self.tally = tally or Tally()

    def write(self, drawn: Drawn) -> dict[str, Any]:
        """Sorts an image and writes its row, which is returned."""
        item, row, errors = drawn
        self._sort(row, item.name, errors)
        row["error"] = "; ".join(errors)
        self.tally.add(row)
        self._table.write(row)
        return row

    def close(self) -> None:
        """Closes the table."""
        self._table.close()

    def _sort(self, row: Mapping[str, Any], name: str, errors: list[str]) -> None:
        """Puts the image into the folder of its decision, and takes it out of the others; another
        one that was sorted under its name keeps its place."""
        if not self._sorting:
            return
        path, folder, own = row["path"], self._sorting.folder, SORTED[row["decision"]]
        try:
            if not has_file(to_path(path)):
                if row["decision"] != tables.UNREADABLE:
                    errors.append("not sorted: has gone")
                return
            place = self._places.place(path, name, partial(_is_free, path, folder))
            for other in set(SORTED.values()) - {own}:
                (folder / other / place).unlink(missing_ok=True)
            _put(path, folder / own / place, self._sorting.by)
        except (UserError, OSError) as problem:
            errors.append(f"not sorted: {problem}")


def _is_free(source: str, folder: Path, place: str, own: bool) -> bool:
    """Whether nothing lies at a place of any decision but this image; where it lay before, what
    could not be read may be a part of it."""
    decisions = set(SORTED.values()) - ({SORTED[tables.UNREADABLE]} if own else set())
    return all(_is_same(source, folder / decision / place) for decision in decisions)


def _is_same(source: str, other: Path) -> bool:
    """Whether there is nothing, a link to this image, or a file of its content."""
    if is_remote(other) or is_remote(source):
        return not other.is_file() or files.read_bytes(other) == files.read_bytes(source)
    if other.is_symlink():
        return os.readlink(other) == os.path.abspath(source)
    return not other.exists() or filecmp.cmp(source, other, shallow=False)


def _put(source: str, target: Path, by: str) -> None:
    """A copy, or a symbolic link: the image itself is never touched."""
    if by == "link" and is_remote(source):
        raise UserError("links to objects in a bucket cannot be made; --sort-by copy")
    if by == "link":
        files.replace_link(target, os.path.abspath(source))
        return
    with (
        files.replaced(target) as temporary,
        open_binary(source) as stream,
        temporary.open("wb") as out,
    ):
        shutil.copyfileobj(stream, out)
