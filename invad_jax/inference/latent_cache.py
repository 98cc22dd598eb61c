"""Latents of the frozen encoder on disk, so that an image is encoded once.

An entry is found by the content of what made it: the encoder's fingerprint (weights, layers, image
size, preprocessing) and the bytes of every image, in order. A changed image or weight is another
entry, so nothing stale is ever read. The folder may be deleted at any time.

An entry is a folder of ArrayRecord shards. Which rows a shard holds follows from their number
alone, so an entry that many processes wrote together is read by any other number of them. Each
process sees to its own shards, encoding and writing those that are missing or damaged, and reads
all of them; where there are several processes, all must see the same folder (`INVAD_CACHE`).

The last record of a shard is its seal, a hash over its rows and its place. A shard takes its name
only when it is whole, and one whose seal does not fit is made anew.

Memory: no process ever holds more than a batch of latents, unless it asks for all of them
(`np.asarray(latents)`). Read next: `encode.py`, which encodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.io.paths import has_file, local, local_files, note_files

MIN_ROWS = 64
"""Of a shard, so that small data sets make few files."""
MAX_SHARDS = 256
"""Of an entry: each reader keeps its files open."""

Encode = Callable[[list[int]], Iterator[np.ndarray]]
"""Row numbers -> the latent of each, (h, w, C) float32, in that order."""


def entry(folder: Path, fingerprint: str, content_hashes: Iterable[str]) -> Path:
    """The folder of the entry."""
    digest = hashlib.sha256(fingerprint.encode())
    for content_hash in content_hashes:
        digest.update(content_hash.encode())
    return folder / digest.hexdigest()[:32]


class Latents:
    """N latents on disk, (h, w, C) float32 each, read at random by any number of threads.

    An array to those who ask: `np.asarray(latents)` is all of them, (N, h, w, C).
    """

    dtype = np.dtype(np.float32)

    def __init__(self, folder: Path, shape: tuple[int, ...]):
        """Opens an entry of `shape` (N, h, w, C), all of whose shards are there."""
        self.shape = shape
        parts = shards(shape[0])
        paths = local_files([_path(folder, rows, shape) for rows in parts])
        self._source = ArrayRecordDataSource(
            [f"{path}[0:{len(rows)}]" for path, rows in zip(paths, parts, strict=True)]
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> np.ndarray:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return np.frombuffer(self._source[row], np.float32).reshape(self.shape[1:])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        latents = np.empty(self.shape, dtype or np.float32)
        for row in range(len(self)):
            latents[row] = self[row]
        return latents


def cached(
    folder: Path,
    shape: tuple[int, ...],
    encode: Encode,
    process_index: int,
    process_count: int,
    barrier: Callable[[], None],
) -> Latents:
    """Reads the entry, after making what is missing or damaged.

    Args:
      folder: from `entry`.
      shape: (N, h, w, C).
      encode: encodes the rows that it is given, when needed.
      process_index: of this process.
      process_count: of all processes, each of which calls this.
      barrier: waits until every process is there.

    Raises:
      UserError: the processes do not see the same folder.
    """
    everyones = shards(shape[0])
    mine = everyones[process_index::process_count]
    missing = [rows for rows in mine if not is_sound(_path(folder, rows, shape), rows, shape)]
    if missing:
        latents = encode([row for rows in missing for row in rows])
        for rows in missing:
            _write(_path(folder, rows, shape), rows, shape, latents)
    barrier()
    note_files(folder)
    for rows in everyones:
        if not has_file(_path(folder, rows, shape)):
            raise UserError(
                f"{_path(folder, rows, shape)}: another process should have written it; all "
                "processes must see the same folder, which INVAD_CACHE names"
            )
    return Latents(folder, shape)


def shards(count: int) -> list[range]:
    """The rows of each shard, in order.

    >>> shards(130)
    [range(0, 64), range(64, 128), range(128, 130)]
    """
    size = max(MIN_ROWS, -(-count // MAX_SHARDS))
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def is_sound(path: Path, rows: range, shape: tuple[int, ...]) -> bool:
    """Whether a shard is there, is whole, and is the one of these rows."""
    seal = _new_seal(rows, shape)
    try:
        reader = ArrayRecordReader(str(local(path)), options="readahead_buffer_size:0")
        try:
            if reader.num_records() != len(rows) + 1:
                return False
            for i in range(len(rows)):
                seal.update(reader.read([i])[0])
            return reader.read([len(rows)])[0] == seal.digest()
        finally:
            reader.close()
    except (OSError, RuntimeError, IndexError):  # RuntimeError: of the checksums of the format
        return False


def _write(path: Path, rows: range, shape: tuple[int, ...], latents: Iterator[np.ndarray]) -> None:
    """Takes the latents of `rows` from the iterator."""
    seal = _new_seal(rows, shape)
    with files.replaced(path) as temporary:
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        for _ in rows:
            record = np.ascontiguousarray(next(latents), np.float32).tobytes()
            seal.update(record)
            writer.write(record)
        writer.write(seal.digest())
        writer.close()


def _new_seal(rows: range, shape: tuple[int, ...]) -> Any:
    return hashlib.sha256(f"{rows} of {shape} float32".encode())


def _path(folder: Path, rows: range, shape: tuple[int, ...]) -> Path:
    return folder / f"rows-{rows.start:08d}-{rows.stop:08d}-of-{shape[0]:08d}.array_record"
