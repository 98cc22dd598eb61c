"""What the readers of diffusers folders share: options that are checked, tensors that are renamed.

Read next: `diffusers_folder.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax.errors import UserError
from invad_jax.io.files import read_json


class Options:
    """A JSON file of options; every wrong one is named with the file."""

    def __init__(self, path: Path):
        self.path = path
        self.values: dict[str, Any] = read_json(path)
        if not isinstance(self.values, dict):
            raise UserError(f"{path}: expected options, found {str(self.values)[:60]!r}")

    def require(self, expected: Mapping[str, Any]) -> None:
        """Raises UserError unless each option is absent or as expected."""
        for option, value in expected.items():
            if self.values.get(option, value) != value:
                raise self.wrong(option, f"expected {value!r}")

    def choice(self, option: str, known: Mapping[Any, Any], default: Any) -> Any:
        """What an option's value stands for in `known`."""
        value = self.values.get(option, default)
        for key, meaning in known.items():
            if type(value) is type(key) and value == key:
                return meaning
        raise self.wrong(option, f"expected one of {', '.join(map(repr, known))}")

    def number(self, option: str, default: Any = None, least: int = 1) -> int:
        """A whole number of at least `least`."""
        value = self.values.get(option, default)
        if type(value) is not int or value < least:
            raise self.wrong(option, f"expected a whole number of at least {least}")
        return value

    def real(self, option: str, default: float) -> float:
        """A positive number."""
        value = self.values.get(option, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise self.wrong(option, "expected a positive number")
        return float(value)

    def items(self, option: str, kind: type, default: Any = None) -> list[Any]:
        """A list of one type, not empty."""
        value = self.values.get(option, default)
        if not isinstance(value, list) or not value or any(type(v) is not kind for v in value):
            raise self.wrong(option, f"expected a list of {kind.__name__}")
        return value

    def wrong(self, option: str, expected: str) -> UserError:
        """The error for an option."""
        value = repr(self.values.get(option))[:100]
        return UserError(f"{self.path}: {option}={value}: {expected}")


class Renaming:
    """Tensors taken by one name and put by another; what is missing or left over is named."""

    def __init__(self, tensors: Mapping[str, np.ndarray], source: Path):
        self.source = source
        self.renamed: dict[str, np.ndarray] = {}
        self._left = dict(tensors)
        self._missing: list[str] = []

    def take(self, *names: str, shape: tuple[int, ...] | None = None) -> np.ndarray | None:
        """The tensor under the first of the names that exists; None, and an error later, if none.

        Raises:
          UserError: it is of another shape.
        """
        name = next((name for name in names if name in self._left), None)
        if name is None:
            self._missing.append(names[0])
            return None
        tensor = self._left.pop(name)
        if shape is not None and tensor.shape != shape:
            raise self._misfit(f"{name} is {tensor.shape}, expected {shape}")
        return tensor

    def has(self, name: str) -> bool:
        """Whether a tensor of that name is still to be taken."""
        return name in self._left

    def put(self, name: str, tensor: np.ndarray | None) -> None:
        """Under its new name, if it was there."""
        if tensor is not None:
            self.renamed[name] = tensor

    def finish(self) -> dict[str, np.ndarray]:
        """Everything that was put.

        Raises:
          UserError: names what was missing, and what was never taken.
        """
        problems = {"missing": self._missing, "unexpected": sorted(self._left)}
        found = [f"{what}: {', '.join(names[:8])}" for what, names in problems.items() if names]
        if found:
            raise self._misfit("; ".join(found))
        return self.renamed

    def _misfit(self, what: str) -> UserError:
        return UserError(f"{self.source}: does not fit its config.json: {what}")
