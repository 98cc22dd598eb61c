"""YAML of others: plain values, of a size that the file shows.

An alias (`*a`) stands for all that its anchor (`&a`) holds, so that a few lines can mean 10^9
values, and one that lies within its own anchor never ends: there may be none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from invad_jax.errors import UserError
from invad_jax.io.files import read_bytes

MAX_BYTES = 2**18


def read_yaml(path: str | Path) -> Any:
    """Reads plain values: dicts, lists, text, numbers.

    Raises:
      UserError: missing, malformed, larger than settings are, or with an alias.
    """
    data = read_bytes(path)
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: {len(data)} bytes, and settings have at most {MAX_BYTES}")
    try:
        settings = data.decode("utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(settings)):
            raise ValueError("an alias (*a); write what it stands for")
        return yaml.safe_load(settings)
    except Exception as error:  # PyYAML lets through what its parsers of numbers and dates raise
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        text = " ".join(str(reason).split())[:200].encode("unicode_escape").decode()
        raise UserError(f"{path}: not a readable settings file: {text}") from None
