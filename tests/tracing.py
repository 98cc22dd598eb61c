"""Bytes that Python's allocators are asked for, counted."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


class Traced:
    """What was asked for since counting began."""

    @property
    def held(self) -> int:
        """Bytes."""
        return tracemalloc.get_traced_memory()[0]

    @property
    def peak(self) -> int:
        """The most bytes at once."""
        return tracemalloc.get_traced_memory()[1]


@contextmanager
def traced() -> Iterator[Traced]:
    """Counts from here on, whoever counted before; ask before the end of the block."""
    tracemalloc.stop()
    tracemalloc.start()
    try:
        yield Traced()
    finally:
        tracemalloc.stop()
