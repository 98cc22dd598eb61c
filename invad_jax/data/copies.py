"""Images that are there twice: a copy teaches nothing, and none may be trained on and tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from invad_jax.data.dataset import LeftOut, Sample, content_hash
from invad_jax.data.records import recorded_hash
from invad_jax.errors import UserError
from invad_jax.io.paths import size_of

REASON = "copies of other training images, which count once"


class Found(NamedTuple):
    """A data set without its copies."""

    train: tuple[Sample, ...]
    """The first of training images of equal content in each category."""
    copied: tuple[LeftOut, ...]
    """The others."""
    tested: list[str]
    """Paths of test images whose content is that of a training image."""


def find(train: Sequence[Sample], test: Sequence[Sample]) -> Found:
    """Compares files of equal size, each of which is read once."""
    contents = _contents([*train, *test])
    of_train, of_test = contents[: len(train)], contents[len(train) :]
    seen, kept, copied = set(), [], []
    for sample, content in zip(train, of_train, strict=True):
        if content is not None and (sample.category, content) in seen:
            copied.append(LeftOut(REASON, sample.path))
        else:
            seen.add((sample.category, content))
            kept.append(sample)
    trained = {content for content in of_train if content is not None}
    tested = [s.path for s, content in zip(test, of_test, strict=True) if content in trained]
    return Found(tuple(kept), tuple(copied), tested)


def _contents(samples: Sequence[Sample]) -> list[str | None]:
    """The SHA-256 of each image's content, or None where no other has its size."""
    sizes = [_size(sample.path) for sample in samples]
    count = Counter(sizes)
    return [
        _hash(sample.path) if size is not None and count[size] > 1 else None
        for sample, size in zip(samples, sizes, strict=True)
    ]


def _size(path: str) -> Hashable | None:
    """Of a file that is not empty; of one in a prepared data set its recorded hash."""
    recorded = recorded_hash(path)
    if recorded is not None:
        return recorded
    try:
        return size_of(path) or None
    except (OSError, UserError):
        return None  # whoever reads it says so


def _hash(path: str) -> str | None:
    try:
        return content_hash(path)
    except UserError:
        return None
