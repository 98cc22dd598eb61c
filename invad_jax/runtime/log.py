"""The log of a run: plain lines on stderr."""

from __future__ import annotations

import logging
import sys

log = logging.getLogger("invad_jax")


def configure(primary: bool = True) -> None:
    """Lets the first process say everything, the others only what is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO if primary else logging.WARNING)
    log.propagate = False
