"""A detector at a line: images one at a time, thresholds that can be moved, the shift so far.

Read next: `app.py`, its page and interface.
"""

from __future__ import annotations

import io
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from invad_jax.config import DataConfig
from invad_jax.data import inputs, preprocess
from invad_jax.errors import UserError
from invad_jax.evaluation.arriving import POLL, Arrival, Folders
from invad_jax.inference.predictor import Predictor
from invad_jax.normality.calibrations import Calibrations
from invad_jax.report import tables
from invad_jax.report.pictures import heat_png
from invad_jax.runtime.log import log
from invad_jax.serving.shift import Pictures, Record, Shift

SIDE = 1280
"""Pixels of the longer side of a photograph that is shown, at most."""
COLUMNS = (
    *("id", "time"),
    *(name for name in tables.PREDICTION_COLUMNS if name != "overlay"),
    "milliseconds",
)
"""Of the table of a shift."""
_LONGEST_NAME = 300


class Line:
    """One detector, used by one thread at a time."""

    def __init__(self, predictor: Predictor, history: Path | None = None):
        """Compiles what one image takes.

        Args:
          predictor: of a workdir or a bundle.
          history: folder that gets a table of each shift; None: the shift is kept in memory alone.

        Raises:
          UserError: the detector is not calibrated.
        """
        self.calibrated: Calibrations = predictor.calibrations
        self.normals = predictor.normal_scores
        self._predictor = predictor
        self._thresholds = {name: one.threshold for name, one in self.calibrated}
        self._history = history
        self._ids = itertools.count(1)
        self._busy = threading.Lock()
        predictor.predict_squares([None], preprocess.blank(1, self.data))
        self.troubles: dict[str, str | None] = {}
        """Of the history, an image (until the next shift) and the folders that are watched; None
        where it is over."""
        self.shift = Shift()
        self._table = self._new_table()

    @property
    def trouble(self) -> str | None:
        """What whoever stands there has to know."""
        return "; ".join(filter(None, list(self.troubles.values()))) or None

    @property
    def data(self) -> DataConfig:
        """How images are read."""
        return self._predictor.model.config.data

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Kind -> the threshold that decides now."""
        return self._thresholds

    def move(self, thresholds: Mapping[str, float]) -> None:
        """Decides on the images that come by other thresholds.

        Raises:
          UserError: of a kind that there is not.
        """
        unknown = sorted(set(thresholds) - set(self._thresholds))
        if unknown:
            raise UserError(f"{unknown[0]}: no such kind; there is {', '.join(self._thresholds)}")
        for name, value in thresholds.items():
            log.info("threshold of %s: %.6g -> %.6g", name, self._thresholds[name], value)
        self._thresholds = {**self._thresholds, **thresholds}

    def begin_shift(self) -> None:
        """Counts anew."""
        with self._busy:
            self._table.close()
            self.shift = Shift()
            self._table = self._new_table()
            self.troubles["image"] = None

    def close(self) -> None:
        """Closes the table of the shift."""
        self._table.close()

    def take(self, content: bytes, name: str) -> Record:
        """Scores the content of an image file as if it had been read from a disk.

        Args:
          content: of any size; never opened under `name`.
          name: text.
        """
        with tempfile.NamedTemporaryFile(prefix="invad_") as stream:
            stream.write(content)
            stream.flush()
            return self.take_file(stream.name, name)

    def take_file(self, path: str, name: str) -> Record:
        """Scores a file of this machine; what is wrong with it becomes its record."""
        with self._busy:
            begun = time.monotonic()
            shown = _as_text(name[:_LONGEST_NAME])
            record = Record(next(self._ids), datetime.now(UTC), shown, "")
            try:
                record, pictures = self._judged(record, path)
            except UserError as error:
                reason = _as_text(str(error).replace(path, "").removeprefix(": "))
                record = replace(record, decision=tables.UNREADABLE, error=reason)
                pictures = None
            record = replace(record, milliseconds=1000 * (time.monotonic() - begun))
            self.shift.add(record, pictures)
            self._keep(record)
            return record

    def _keep(self, record: Record) -> None:
        """A disk that is full must not stop the line, and must not go unseen."""
        try:
            self._table.write(row_of(record))
            self.troubles["history"] = None
        except (UserError, OSError) as error:
            if not self.troubles.get("history"):
                log.error("%s", error)
            self.troubles["history"] = f"the history is not kept: {error}"

    def _judged(self, record: Record, path: str) -> tuple[Record, Pictures]:
        data = self.data
        inputs.require_usable(path)
        photograph = preprocess.read_original(path, data, SIDE)
        square = preprocess.read_image(path, data)
        (result,) = self._predictor.predict_squares([path], square[None])
        if not np.isfinite(result.image_score):
            raise UserError("has no finite score")
        threshold = self._thresholds[result.component]
        judged = replace(
            record,
            decision=tables.decision_word(result.image_score > threshold),
            image_score=result.image_score,
            threshold=threshold,
            component=result.component,
            normal_percentile=result.normal_percentile,
            regions=result.regions(preprocess.size_of(path, data)),
        )
        return judged, Pictures(_jpeg(photograph), heat_png(result.anomaly_map, *result.heat))

    def _new_table(self) -> Any:
        if self._history is None:
            return _Nothing()
        self._history.mkdir(parents=True, exist_ok=True)
        begun = f"shift_{self.shift.started:%Y-%m-%dT%H-%M-%S}"
        for i in itertools.count(1):
            path = self._history / (f"{begun}.csv" if i == 1 else f"{begun}_{i}.csv")
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                continue
            return tables.PredictionStream(path, "csv", COLUMNS)
        raise AssertionError


def watch(line: Line, folders: Sequence[str], stopped: Callable[[float], bool]) -> None:
    """Scores the files of folders that are whole, and those that come, until it is stopped.

    Args:
      line: takes them.
      folders: of this machine.
      stopped: waits so many seconds, and says whether to end.
    """
    seen = Folders(folders, line.data)
    while not stopped(POLL):
        arrivals = list[Arrival]()
        with _told(line, folders):
            arrivals = seen.look(time.monotonic())
        for arrival in arrivals:
            with _told(line, folders):
                line.take_file(arrival.path, arrival.name)
        line.troubles["folders"] = seen.trouble


@contextmanager
def _told(line: Line, folders: Sequence[str]) -> Iterator[None]:
    """Whatever goes wrong, what comes next is to be decided on."""
    try:
        yield
    except Exception as error:
        log.exception("watching %s", ", ".join(folders))
        line.troubles["image"] = f"an image of a watched folder was not decided on: {error}"


class _Nothing:
    """A table that is not kept."""

    def write(self, row: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def _as_text(name: str) -> str:
    """What JSON can hold of the name of a file, which need not be valid Unicode."""
    return name.encode(errors="replace").decode()


def row_of(record: Record) -> dict[str, Any]:
    """Of the table of a shift; see `PredictionStream.write`."""
    regions = None if record.error else [region._asdict() for region in record.regions]
    return {**asdict(record), "path": record.name, "regions": regions}


def _jpeg(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=85)
    return stream.getvalue()
