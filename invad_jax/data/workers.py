"""Reading in other processes, whose results come through pipes: containers have little shared
memory, and what is left in it after an early end is reported as leaked."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from invad_jax.errors import UserError

_AHEAD = 2
"""Results that each worker may have ready."""

_reader: Callable[[Any], Any]
"""Of a worker: what it calls."""


def read_all(read: Callable[[Any], Any], items: Sequence[Any], num_workers: int) -> Iterator[Any]:
    """Yields `read(item)` of every item, in order.

    Args:
      read: can be pickled, and so can what it returns.
      items: what it is given.
      num_workers: processes.

    Raises:
      UserError: a process was ended from outside, or none can be started.
    """
    if not items:
        return
    waiting = iter(items)
    try:
        with _pool(read, min(num_workers, len(items))) as workers:
            try:
                ready = deque(_submit(workers, itertools.islice(waiting, _AHEAD * num_workers)))
                while ready:
                    yield ready.popleft().result()
                    ready.extend(_submit(workers, itertools.islice(waiting, 1)))
            finally:
                workers.shutdown(wait=False, cancel_futures=True)
    except BrokenProcessPool as error:
        raise UserError(
            f"data.num_workers={num_workers}: a process that reads was ended, perhaps for lack of "
            "memory; set data.num_workers=0"
        ) from error


def _pool(read: Callable[[Any], Any], count: int) -> ProcessPoolExecutor:
    try:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(count, context, _start, (read,))
    except (OSError, NotImplementedError) as error:  # no semaphores, which lie in /dev/shm
        raise UserError(
            f"data.num_workers={count}: no process can be started ({error}); set data.num_workers=0"
        ) from error


def _submit(workers: ProcessPoolExecutor, items: Iterable[Any]) -> list[Future[Any]]:
    """Hands items over, by which processes may start."""
    with _ctrl_c_is_ours():
        return [workers.submit(_read, item) for item in items]


@contextmanager
def _ctrl_c_is_ours() -> Iterator[None]:
    """Processes that start within it never see Ctrl-C; here it is obeyed at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which they inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if pressed:
            signal.raise_signal(signal.SIGINT)


def _start(read: Callable[[Any], Any]) -> None:
    global _reader
    _reader = read
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process that is ended at once cannot end its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _read(item: Any) -> Any:
    return _reader(item)
