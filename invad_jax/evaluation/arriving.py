"""Images that come one by one: paths on a stream, new files of a folder.

One that is alone is scored alone, at once; many that wait, together. Nothing is kept of those that
are done but where they were. Read next: `records.py`, what becomes of each.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from invad_jax.config import DataConfig
from invad_jax.data import inputs, preprocess
from invad_jax.errors import UserError
from invad_jax.evaluation.records import PICTURE, Drawer, Item, Recorder
from invad_jax.inference.predictor import Predictor
from invad_jax.io import names
from invad_jax.runtime.log import log

QUIET = 1.0
"""Seconds in which a file must not change to be taken for whole."""
PATIENCE = 5.0
"""Seconds more that a file has which is quiet and cannot be read yet."""
POLL = 0.25
"""Seconds between two looks at a folder."""


class Arrival(NamedTuple):
    """A file that is there."""

    path: str
    name: str
    """Relative, where it lies below what was given."""


def score(
    arrivals: Iterable[list[Arrival]], recorder: Recorder, drawer: Drawer, predictor: Predictor
) -> None:
    """Scores files as they come, until there are no more.

    Args:
      arrivals: some files at a time, those that wait.
      recorder: takes the rows.
      drawer: makes them of the results.
      predictor: makes these.
    """
    overlays, size = names.Taken(), predictor.model.batch_size
    for waiting in arrivals:
        for start in range(0, len(waiting), size):
            items = _score(waiting[start : start + size], predictor, overlays)
            for drawn in drawer.draw(items):
                recorder.write(drawn)


def warm_up(predictor: Predictor) -> None:
    """Compiles what `score` will run, so that the first image does not wait for it."""
    model = predictor.model
    for count in sorted({model.batch_size_for(n + 1) for n in range(model.batch_size)}):
        predictor.predict_squares([None] * count, preprocess.blank(count, model.config.data))


def on_stream(lines: Iterable[str], at_most: int) -> Iterator[list[Arrival]]:
    """Paths, one a line: those that are there, as soon as there is one.

    Args:
      lines: such as the standard input; read by another thread.
      at_most: so many at a time.

    Raises:
      UserError: they cannot be read to their end; what came before it has come.
    """
    waiting: queue.Queue[str | None] = queue.Queue(4 * at_most)
    failed: list[Exception] = []

    def read() -> None:
        try:
            for line in lines:
                path = line.rstrip("\r\n")
                if path:
                    waiting.put(path)
        except Exception as error:  # raised below, by who waits for paths
            failed.append(error)
        finally:
            waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    ended = False
    while not ended:
        paths = [waiting.get()]
        while len(paths) < at_most and not waiting.empty():
            paths.append(waiting.get())
        ended = paths[-1] is None
        yield [Arrival(path, os.path.basename(path)) for path in paths if path is not None]
    if failed:
        raise UserError(f"the standard input: cannot be read: {failed[0]}") from failed[0]


class Folders:
    """Folders that are looked at again and again."""

    def __init__(self, folders: Sequence[str], data: DataConfig):
        self._folders = folders
        self._data = data
        self._done: dict[str, tuple[int, int]] = {}
        self._waiting: dict[str, tuple[tuple[int, int], float]] = {}
        self.trouble: str | None = None
        """Why a folder could not be listed, or a file not be asked for, at the last look."""

    def arrivals(self) -> Iterator[list[Arrival]]:
        """The files that are whole: those that are there, then those that come. Has no end."""
        while True:
            begun = time.monotonic()
            ready = self.look(begun)
            if ready:
                yield ready
            took = time.monotonic() - begun
            time.sleep(max(POLL - took, 0.1 * took))

    def look(self, now: float) -> list[Arrival]:
        """The images that have become whole, or are whole again with another content.

        Args:
          now: seconds, rising.
        """
        ready, there, closed = [], set(), dict[str, str]()
        for path, name in inputs.images_below(self._folders, closed):
            try:
                state = _state(path)
            except OSError as error:
                closed[path] = str(error.strerror)
                continue
            if state is None:
                continue
            there.add(path)
            if self._done.get(path) == state:
                continue
            known, since = self._waiting.get(path, (None, now))
            if known != state:
                self._waiting[path] = state, now
            elif now - since >= QUIET and (
                now - since >= QUIET + PATIENCE
                or not preprocess.why_unreadable(path, self._data)  # its end may not be there
            ):
                self._done[path] = state
                del self._waiting[path]
                ready.append(Arrival(path, name))
        self._say(closed)
        unseen = tuple(os.path.join(path, "") for path in closed)  # it may be there
        self._done = {
            path: state
            for path, state in self._done.items()
            if path in there or os.path.join(path, "").startswith(unseen)
        }
        self._waiting = {path: value for path, value in self._waiting.items() if path in there}
        return ready

    def _say(self, closed: Mapping[str, str]) -> None:
        """Once, that a folder is away; and that it is back."""
        first = next((f"{path}: {reason}" for path, reason in closed.items()), None)
        trouble = f"what lies there waits: {first}" if first else None
        if (trouble is None) != (self.trouble is None):
            log.warning("%s", trouble or "the folders that are watched can be listed again")
        self.trouble = trouble


def _state(path: str) -> tuple[int, int] | None:
    """Size and time of the last change; None where it has gone.

    Raises:
      OSError: the system does not say.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size, found.st_mtime_ns


def _score(some: Sequence[Arrival], predictor: Predictor, overlays: names.Taken) -> list[Item]:
    data, failed, readable, squares = predictor.model.config.data, [], [], []
    for one in some:
        try:
            inputs.require_usable(one.path)
            squares.append(preprocess.read_image(one.path, data))
            readable.append(one)
        except UserError as error:
            failed.append(Item(one.path, one.name, "", None, str(error)))
    if not readable:
        return failed
    scored = []
    results = predictor.predict_squares([one.path for one in readable], np.stack(squares))
    for one, result in zip(readable, results, strict=True):
        if np.isfinite(result.image_score):
            overlay = overlays.new(one.name, PICTURE)
            scored.append(Item(one.path, one.name, overlay, result))
        else:
            failed.append(Item(one.path, one.name, "", None, "has no finite score"))
    return failed + scored
