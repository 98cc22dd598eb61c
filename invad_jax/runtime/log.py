"""The log of a command: plain lines on stderr, and no others in between."""

from __future__ import annotations

import logging
import sys

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


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Leaves out what threads of tensorstore say after a failed save: the first write that fails
    ends the save and its event loop, and is raised; later ones find the loop closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
