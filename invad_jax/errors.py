"""What commands print as one line: what is the user's to mend (status 2), what may pass (75)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave is wrong: an option, a path, a file, a workdir of another config.

    The message is one line, names the thing by its path or option, and says what would be right.
    """


class UnavailableError(Exception):
    """A store does not answer, or the disk for its copies is full: nothing that was given is wrong.

    So it is no `UserError`, and what goes past a bad image does not go past this. The same command
    may go on later: commands leave with `STATUS`, on which launchers start again.
    """

    STATUS = 75
    """`EX_TEMPFAIL` of sysexits.h."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest ones, or nothing.

    >>> did_you_mean("botle", ["bottle", "screw"])
    '; did you mean bottle?'
    """
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def what_there_is(name: str, known: Iterable[str]) -> str:
    """As `did_you_mean`; where nothing is near, all of them."""
    known = sorted(known)
    return did_you_mean(name, known) or f"; there is {', '.join(known)}"
