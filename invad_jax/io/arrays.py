"""Arrays by name, in one `.npz`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax.errors import UnavailableError, UserError
from invad_jax.io.files import replaced


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes the file atomically."""
    with replaced(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


@contextmanager
def read_arrays(path: Path, advice: str) -> Iterator[dict[str, Any]]:
    """Hands over what `write_arrays` wrote, to be made into something in the body.

    Args:
      path: of the file.
      advice: what to do where it cannot be read, for the message.

    Raises:
      UserError: it is missing or damaged, or the body can make nothing of it.
      UnavailableError: the store that it lies in does not answer.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            yield {name: arrays[name] for name in arrays.files}
    except (UserError, UnavailableError):
        raise
    except Exception as error:  # zipfile and NumPy raise nearly anything on damaged files
        raise UserError(f"{path}: cannot be read; {advice}") from error
