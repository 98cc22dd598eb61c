"""Several questions at the same time, for a store that answers late."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_AT_ONCE = 16


def at_once(work: Callable[[_Item], _Answer], items: Iterable[_Item]) -> list[_Answer]:
    """What becomes of each item, in order.

    >>> at_once(len, ["a", "bc"])
    [1, 2]
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(work, items))
