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
from invad_jax.io.tensor_reader import TensorReader


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


class Renaming(TensorReader):
    """Tensors taken by one name and put by another."""

    def __init__(self, tensors: Mapping[str, np.ndarray], source: Path):
        super().__init__(tensors)
        self.source = source
        self._renamed: dict[str, np.ndarray] = {}

    def put(self, name: str, tensor: np.ndarray | None) -> None:
        """Under its new name, if it was there."""
        if tensor is not None:
            self._renamed[name] = tensor

    def renamed(self) -> dict[str, np.ndarray]:
        """Everything that was put; see `finish`."""
        self.finish(f"{self.source}: does not fit its config.json: ")
        return self._renamed
