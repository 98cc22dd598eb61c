"""What is kept of every test image, in memory or in a file: maps and masks that may be too many."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from invad_jax.errors import UserError


class Rows:
    """An array that is filled row by row; zero where nothing was written."""

    def __init__(
        self, count: int, shape: Sequence[int], dtype: type, folder: Path | None = None
    ) -> None:
        """Takes memory, or a file without a name, which is gone with the array, even after a kill.

        Args:
          count: of the rows.
          shape: of one.
          dtype: of the elements.
          folder: made if it is not there, gets the file; None: memory.

        Raises:
          UserError: the folder cannot be written.
        """
        self._folder, self._file = folder, -1
        self.array: np.ndarray = np.zeros((0 if folder and count else count, *shape), dtype)
        """(count, *shape)."""
        if folder and count:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stream = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, closed with this
                weakref.finalize(self, stream.close)
                stream.truncate(count * self._row_bytes)
            except OSError as error:
                raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
            self._file = stream.fileno()
            self.array = np.memmap(stream, dtype, "r", shape=(count, *shape))

    def write(self, row: int, values: np.ndarray) -> None:
        """Sets one row.

        Raises:
          UserError: the disk is full. (Writing to the mapped memory would end the process.)
        """
        if self._file < 0:
            self.array[row] = values
            return
        rest = memoryview(np.ascontiguousarray(values, self.array.dtype)).cast("B")
        at = row * self._row_bytes
        try:
            while rest:
                written = os.pwrite(self._file, rest, at)
                rest, at = rest[written:], at + written
        except OSError as error:
            raise UserError(f"{self._folder}: cannot be written: {error.strerror}") from error

    def keep(self, rows: Sequence[int]) -> np.ndarray:
        """Some rows, rising, as an array that lies where this one lies, in its place."""
        for target, row in enumerate(rows):
            if target != row:
                self.write(target, self.array[row])
        return self.array[: len(rows)]

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.array.shape[1:], dtype=np.int64)) * self.array.dtype.itemsize
