"""The work of many processes as files: which images, and the shards of them that are done.

A folder `shards/` in `--out`, on a disk or in a bucket that all processes see, holds meanwhile

    inputs.jsonl, offsets.npy    the images in order, listed once; where the line of each begins
    job.json                     whose work it is, number of images, images a shard
    000012.csv, 000012.json      rows of a shard that is done, and their tally

A shard is a range of rows, whoever does it, so the merged table is the same for any number of
processes. Its table is renamed last: what is there is whole, and is not done again. Nothing here is
kept in memory for each image but a number, and that only while images are listed.

Read next: `fleet.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax.data import inputs
from invad_jax.data.inputs import Found
from invad_jax.errors import UserError
from invad_jax.evaluation.tally import Tally
from invad_jax.io import files
from invad_jax.io.paths import is_remote
from invad_jax.io.pool import at_once
from invad_jax.runtime import locks
from invad_jax.runtime.log import log

SMALLEST, LARGEST, PARTS = 16, 512, 256
"""A shard is a 256th of the images within these bounds: few are still spread over many processes,
and of many a kill does not cost more than 512 for each process."""
POLL, POLL_BUCKET = 0.2, 2.0
"""Seconds between two looks for what another process writes."""
MERGED = 64
"""Shards that are read at the same time."""
_LINE = np.dtype([("begin", np.int64), ("end", np.int64), ("usable", np.bool_)])
_JOB, _INPUTS, _OFFSETS = "job.json", "inputs.jsonl", "offsets.npy"


class Shards:
    """A job that is under way."""

    def __init__(self, folder: Path):
        """`folder`: see `begin`."""
        self.folder = folder
        job = files.read_json(folder / _JOB)
        self.key: dict[str, Any] = job["key"]
        self.images: int = job["images"]
        self.size: int = job["size"]
        self.count = -(-self.images // self.size)
        """Shards."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self.folder,)  # to worker processes

    def require(self, key: Mapping[str, Any]) -> None:
        """Raises UserError if another job than this was begun here."""
        for name, value in json.loads(json.dumps(key)).items():
            if self.key.get(name) != value:
                raise UserError(
                    f"{self.folder}: holds a part of other work ({name} was {self.key.get(name)}, "
                    f"now {value}); give the same command or another --out, or delete the folder"
                )

    def rows(self, shard: int) -> range:
        """The images of a shard."""
        return range(self.images)[shard * self.size : (shard + 1) * self.size]

    def readable(self, rows: np.ndarray) -> np.ndarray:
        """Which of some rows, (n,) int, have something to read: positions in them, rising."""
        return np.flatnonzero(self._lines["usable"][rows])

    def found(self, row: int) -> Found:
        """An image; may be asked by many threads."""
        begin, end, _ = self._lines[row].tolist()
        return Found(*json.loads(os.pread(self._inputs, end - begin, begin)))

    def finished(self) -> set[int]:
        """The shards whose rows are there, by one look at the folder."""
        names = {path.name for path in self.folder.iterdir()}
        return {shard for shard in range(self.count) if self.table(shard).name in names}

    def table(self, shard: int) -> Path:
        """The file of its rows."""
        return self.folder / f"{shard:06d}.{self.key['format']}"

    @contextmanager
    def writing(self, shard: int) -> Iterator[tuple[Path, Tally]]:
        """Yields the temporary file of a shard, and its tally; both are kept on a clean exit."""
        tally = Tally()
        with files.replaced(self.table(shard)) as temporary:
            yield temporary, tally
            files.write_json(self._tally(shard), tally.content)

    def wait(self) -> None:
        """Returns when every shard is finished; a process that dies ends this one, too."""
        while len(self.finished()) < self.count:
            pause(self.folder)

    def merge(self, table: Path) -> Tally:
        """Puts the rows of all shards into one table, in order, and returns their tally.

        To be called after `wait`, which has seen all of them.

        Raises:
          UserError: it cannot be written.
        """
        tally = Tally()
        with files.replaced(table) as temporary, temporary.open("wb") as whole:
            for begin in range(0, self.count, MERGED):
                some = range(self.count)[begin : begin + MERGED]
                for shard, rows in zip(some, self._read(self.table, some), strict=True):
                    names = shard and table.suffix == ".csv"  # of the columns, once
                    whole.write(rows.partition(b"\n")[2] if names else rows)
                for one in self._read(self._tally, some):
                    tally.extend(json.loads(one))
        return tally

    def _read(self, name: Callable[[int], Path], some: range) -> list[bytes]:
        return files.each(files.read_as_listed, list(map(name, some)))

    def remove(self) -> None:
        """Deletes the folder, in a bucket but for the lock, which is let go of by whoever holds it.

        What is left of it where that is broken off is no job.

        Raises:
          UnavailableError: the store is away.
        """
        (self.folder / _JOB).unlink(missing_ok=True)  # a store may forget to say that it did
        if is_remote(self.folder):
            left = [p for p in self.folder.rglob("*") if not p.name.startswith(locks.LOCK)]
            at_once(lambda path: path.unlink(missing_ok=True), left)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _tally(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.json"

    @cached_property
    def _lines(self) -> np.ndarray:
        return np.load(self._local(_OFFSETS), mmap_mode="r")

    @cached_property
    def _inputs(self) -> int:
        return os.open(self._local(_INPUTS), os.O_RDONLY | os.O_CLOEXEC)

    def _local(self, name: str) -> Path:
        """A file of the list; of one in a bucket, a copy on this machine."""
        path = self.folder / name
        if not is_remote(path):
            return path
        with tempfile.NamedTemporaryFile(prefix="invad_jax-", delete=False) as copy:
            weakref.finalize(self, Path(copy.name).unlink)
        path.download(Path(copy.name))
        return Path(copy.name)


class Paths(Sequence[str]):
    """The paths of some rows, read when they are asked for."""

    def __init__(self, shards: Shards, rows: np.ndarray):
        """`rows`: (n,) int."""
        self._shards, self._rows = shards, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Paths(self._shards, self._rows[index])
        return self._shards.found(int(self._rows[index])).path


def pause(folder: Path) -> None:
    """Waits a little for what another process writes."""
    time.sleep(POLL_BUCKET if is_remote(folder) else POLL)


def is_begun(folder: Path) -> bool:
    """Whether there is a job under way."""
    return (folder / _JOB).exists()


def begin(folder: Path, key: Mapping[str, Any], sources: Iterable[str]) -> Shards:
    """The job that was begun in a folder, or a new one; for one process.

    Args:
      folder: on a disk that all processes see.
      key: JSON that says whose work it is; its `format` is `csv` or `jsonl`.
      sources: files, folders, patterns; only asked where the job is new.

    Raises:
      UserError: another job was begun there, there is no image, or the folder cannot be written.
    """
    if not is_begun(folder):
        for old in (
            folder.iterdir() if folder.is_dir() else ()
        ):  # of a job that was never begun, or is done
            if not old.name.startswith(locks.LOCK):
                old.unlink(missing_ok=True)
        left_out = Counter[str]()
        count = _list(folder, inputs.each(sources, left_out))
        if left_out:
            log.info("left out of --input: %s", inputs.summary(left_out))
        if not count:
            seen = f"; left out: {inputs.summary(left_out)}" if left_out else ""
            raise UserError(f"--input: holds no image{seen}")
        size = min(max(-(-count // PARTS), SMALLEST), LARGEST)
        files.write_json(folder / _JOB, {"key": key, "images": count, "size": size})
    return await_begun(folder, key)


def await_begun(folder: Path, key: Mapping[str, Any]) -> Shards:
    """The job that another process begins.

    Raises:
      UserError: another job was begun there.
    """
    while not is_begun(folder):
        pause(folder)
    shards = Shards(folder)
    shards.require(key)
    return shards


def _list(folder: Path, images: Iterable[Found]) -> int:
    """Writes the list of the images, each once, and returns how many there are.

    Two paths count as the same if 64 bits of their hashes are: among ten million images by chance
    once in 370 000 times.
    """
    begins, hashes, usable = array("q", [0]), array("Q"), array("b")
    with files.replaced(folder / _INPUTS) as temporary, temporary.open("wb") as stream:
        for one in images:
            stream.write(json.dumps(one).encode() + b"\n")
            begins.append(stream.tell())
            path = os.fsencode(os.path.abspath(one.path))
            hashes.append(int.from_bytes(blake2b(path, digest_size=8).digest()))
            usable.append(not one.reason)
    _, first = np.unique(np.array(hashes, np.uint64), return_index=True)
    lines = np.empty(len(hashes), _LINE)
    lines["begin"], lines["end"], lines["usable"] = begins[:-1], begins[1:], usable
    with files.replaced(folder / _OFFSETS) as temporary, temporary.open("wb") as stream:
        np.save(stream, lines[np.sort(first)])
    return len(first)
