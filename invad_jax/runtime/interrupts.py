"""Ctrl-C and SIGTERM: one line and the status by which shells know them, wherever the program was.

What is unfinished is cleared away, as after any other error.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

GRACE = 5.0
"""Seconds to leave in good order."""
_SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Terminated(KeyboardInterrupt):
    """SIGTERM, from a scheduler or a service manager."""


@contextmanager
def unwound() -> Iterator[None]:
    """Within it, either raises KeyboardInterrupt, and after `GRACE` seconds ends the process.

    An exception alone may be lost: Python drops it in a destructor or a garbage collection, and JAX
    has a hook in the latter.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in _SAID}
    ends: list[threading.Timer] = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        if _is_importing_jax():
            leave(number)
        end = threading.Timer(GRACE, leave, (number,))
        end.daemon = True
        ends.append(end)
        end.start()
        for each in previous:  # a second one does not wait
            signal.signal(each, leave)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    for number, handler in list(previous.items()):
        if handler == signal.SIG_IGN:  # as shells do with SIGINT and `&`
            del previous[number]
        else:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for end in ends:
            end.cancel()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _is_importing_jax() -> bool:
    """Its compiled modules abort the process where an exception meets their making; nothing has
    been begun then that would have to be cleared away."""
    spec = getattr(sys.modules.get("jax"), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def outcome(error: KeyboardInterrupt) -> tuple[str, int]:
    """The line and the status of a process that `unwound` has stopped."""
    number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
    return _SAID[number], 128 + number


def leave(number: int, frame: FrameType | None = None) -> NoReturn:
    """Ends this process at once."""
    print(_SAID[signal.Signals(number)], file=sys.stderr, flush=True)
    os._exit(128 + number)
