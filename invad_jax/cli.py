"""The command line of every main: options that explain themselves, one-line errors, exit status."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from invad_jax import files
from invad_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line that names the nearest option."""

    def __init__(self, doc: str | None):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Raises `UserError` where argparse would print its usage and leave."""
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized") and unknown:
            known = [o for action in self._actions for o in action.option_strings]
            near = difflib.get_close_matches(unknown[0], known, n=2, cutoff=0.5)
            message += f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(message)


def run(
    main: Callable[[argparse.Namespace], int | None], parser: Parser, argv: Sequence[str] | None
) -> int:
    """Parses `argv` (None: the process's own) and runs `main`.

    Returns:
      The exit status: what `main` returns (None is 0), or 2 and one line for a `UserError` and for
      a disk that is full, broken or not ours.
    """
    try:
        return main(parser.parse_args(argv)) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in files.DISK_ERRORS:
            raise
        print(f"error: {error.filename or 'disk'}: {error.strerror}", file=sys.stderr)
        return 2
