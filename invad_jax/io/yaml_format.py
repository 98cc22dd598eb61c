"""YAML of others: plain values, of a size that the file shows.

An alias (`*a`) stands for all that its anchor (`&a`) holds, so that a few lines can mean 10^9
values, and one that lies within its own anchor never ends. They are counted before they are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from invad_jax.errors import UserError
from invad_jax.io.files import read_bytes

MAX_BYTES = 2**18
MAX_VALUES = 10_000


def read_yaml(path: str | Path) -> Any:
    """Reads plain values: dicts, lists, text, numbers.

    Raises:
      UserError: missing, malformed, or larger than settings are.
    """
    data = read_bytes(path)
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: {len(data)} bytes, and settings have at most {MAX_BYTES}")
    try:
        loader = yaml.SafeLoader(data.decode("utf-8"))
        node = loader.get_single_node()
        if node is not None and _count(node, {}) > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
        return None if node is None else loader.construct_document(node)
    except Exception as error:  # PyYAML lets through what its parsers of numbers and dates raise
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        text = " ".join(str(reason).split())[:200].encode("unicode_escape").decode()
        raise UserError(f"{path}: not a readable settings file: {text}") from None


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """Values that a node will be, its aliases written out; `counts` are those of nodes seen."""
    if id(node) in counts:
        if not counts[id(node)]:  # it is within itself
            raise ValueError("an alias within its own anchor")
        return counts[id(node)]
    counts[id(node)] = 0
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_count(child, counts) for child in node.value)
    elif isinstance(node, yaml.MappingNode):
        total += sum(_count(child, counts) for pair in node.value for child in pair)
    counts[id(node)] = total
    return total
