"""The log of a command: plain lines on stderr, and no others in between."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

log = logging.getLogger("invad_jax")
CHATTY = ("absl", "asyncio")
"""Orbax logs several lines a save, and a traceback of every error that it also raises; after a
failed save asyncio logs every further write that failed with it."""


def configure(primary: bool = True) -> None:
    """Lets the first process say everything, the others only what is wrong; commands call it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO if primary else logging.WARNING)
    log.propagate = False
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The same silence of others for a while, in a program that is not ours."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Leaves out what threads of tensorstore say after a failed save: the first write that fails
    ends the save and its event loop, and is raised; later ones find the loop closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
