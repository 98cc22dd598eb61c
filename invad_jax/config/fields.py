"""What the field of an option says of it, beside type and default."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def where(condition: str, default: Any) -> Any:
    """A field that is read only under other options: `effect.holds` has the language."""
    return field(default=default, metadata={"where": condition})


def free(default: Any, condition: str = "") -> Any:
    """A field that may differ between the run that wrote a workdir and the one that reads it."""
    return field(default=default, metadata={"free": True, "where": condition})


def free_when_trained(default: Any, condition: str = "") -> Any:
    """A field that may differ when a workdir is read, but not when its training goes on."""
    return field(default=default, metadata={"free": True, "training": True, "where": condition})
