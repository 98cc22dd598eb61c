"""Tensors taken out of a file by their names; everything that does not fit is said in one line.

Read next: `tensors.py`, which reads the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from invad_jax.errors import UserError
from invad_jax.io.tensors import check_numbers

_MOST = 8
"""Names of one kind in a message."""


class TensorReader:
    """Gives tensors, collects problems, and raises them all at once."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self._rest = dict(tensors)
        self._problems: dict[str, list[str]] = {}

    def has(self, name: str) -> bool:
        """Whether a tensor of that name is still to be taken."""
        return name in self._rest

    def take(self, *names: str, shape: tuple[int, ...] | None = None) -> np.ndarray | None:
        """The tensor under the first of the names that there is; None, and a problem, where it is
        missing, of another shape or no finite numbers."""
        name = next((name for name in names if name in self._rest), None)
        if name is None:
            self.reject("missing", names[0])
            return None
        tensor = self._rest.pop(name)
        if shape is not None and tensor.shape != shape:
            self.reject("of another shape", f"{name} is {tensor.shape}, expected {shape}")
            return None
        try:
            check_numbers({name: tensor})
        except UserError as error:
            self.reject("wrong", str(error))
            return None
        return tensor

    def filled(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """As `take`, in float64 so that folding is exact, and zeros where there is a problem."""
        tensor = self.take(name, shape=shape)
        return np.zeros(shape) if tensor is None else tensor.astype(np.float64)

    def reject(self, kind: str, what: str) -> None:
        """Notes a problem."""
        self._problems.setdefault(kind, []).append(what)

    def finish(self, about: str = "", ignore: str = "") -> None:
        """Checks that everything was there, and nothing more but what `ignore` matches.

        Args:
          about: the begin of the message.
          ignore: regular expression over whole names.

        Raises:
          UserError: there was a problem, or something was never taken.

        >>> TensorReader({"a": np.ones(2)}).finish("x.npz: ")
        Traceback (most recent call last):
        ...
        invad_jax.errors.UserError: x.npz: unexpected: a
        """
        for name in sorted(self._rest):
            if not re.fullmatch(ignore, name):
                self.reject("unexpected", name)
        if self._problems:
            found = [f"{kind}: {_listed(names)}" for kind, names in self._problems.items()]
            raise UserError(f"{about}{'; '.join(found)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more
