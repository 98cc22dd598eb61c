"""A Ctrl-C ends a command with one line, also while it imports and can catch nothing."""

from __future__ import annotations

import signal
import sys
import threading
from types import TracebackType
from typing import Any

WORD = "interrupted"


def install() -> None:
    """Sets the two hooks of this process."""
    sys.excepthook = _say
    sys.unraisablehook = _raise_again


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python does, but a Ctrl-C is one line."""
    if issubclass(kind, KeyboardInterrupt):
        print(WORD, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _raise_again(lost: Any) -> None:
    """A Ctrl-C that comes while JAX's garbage collection calls back would be dropped there."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        main = threading.main_thread().ident
        timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(lost)
