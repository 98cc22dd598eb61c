"""Ctrl-C: one line and the status by which shells know it, wherever the program was."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STATUS = 130
MESSAGE = "interrupted"
GRACE = 5.0
"""Seconds to leave in good order."""


@contextmanager
def unwound() -> Iterator[None]:
    """Within it, Ctrl-C raises KeyboardInterrupt, and after `GRACE` seconds ends the process.

    An exception alone may be lost: Python drops it in a destructor or a garbage collection, and JAX
    has a hook in the latter.
    """
    of_ours = threading.current_thread() is threading.main_thread()
    if not of_ours or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as shells do with `&`
        yield
        return
    end = threading.Timer(GRACE, leave)
    end.daemon = True

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(number, leave)  # a second one does not wait
        end.start()
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        end.cancel()
        signal.signal(signal.SIGINT, previous)


def leave(*signal_and_frame: object) -> NoReturn:
    """Ends this process at once."""
    print(MESSAGE, file=sys.stderr, flush=True)
    os._exit(STATUS)
