"""Files of what is read in parts, and written as a whole."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class Upload(io.BytesIO):
    """What is written into it goes on as a whole when it is closed."""

    def __init__(self, write: Callable[[bytes], None]):
        super().__init__()
        self._write = write

    def close(self) -> None:
        """Hands the content over, once."""
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._write(content)


class Parts(io.RawIOBase):
    """What is read in the parts that are asked for."""

    def __init__(self, read: Callable[[int, int], bytes], size: int):
        """`read`: (start, stop) -> bytes; `size`: of all of it."""
        self._read, self._size, self._position = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """As of any file."""
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        data = self._read(self._position, stop)
        buffer[: len(data)] = data
        self._position = stop
        return len(data)
