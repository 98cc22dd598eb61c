"""Images that are there twice: a copy teaches nothing, and none may be trained on and tested."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from invad_jax.data.dataset import LeftOut, Sample, content_hash
from invad_jax.data.records import recorded_hash
from invad_jax.errors import UserError

REASON = "copies of other training images, which count once"


def without_copies(train: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[LeftOut, ...]]:
    """The first of training images of equal content in each category, and the others.

    Only files of equal size are read.
    """
    seen, kept, left_out = set(), [], []
    for sample, content in _contents(train):
        if content is not None and (sample.category, content) in seen:
            left_out.append(LeftOut(REASON, sample.path))
        else:
            seen.add((sample.category, content))
            kept.append(sample)
    return tuple(kept), tuple(left_out)


def trained_and_tested(train: Sequence[Sample], test: Sequence[Sample]) -> list[str]:
    """Paths of test images whose content is that of a training image."""
    contents = [content for _, content in _contents([*train, *test])]
    trained = {content for content in contents[: len(train)] if content is not None}
    tested = zip(test, contents[len(train) :], strict=True)
    return [sample.path for sample, content in tested if content in trained]


def _contents(samples: Sequence[Sample]) -> Iterable[tuple[Sample, str | None]]:
    """Each image with the SHA-256 of its content, or None where no other has its size."""
    sizes = [_size(sample.path) for sample in samples]
    count = Counter(sizes)
    for sample, size in zip(samples, sizes, strict=True):
        yield sample, _hash(sample.path) if size is not None and count[size] > 1 else None


def _size(path: str) -> Hashable | None:
    """Of a file that is not empty; of one in a prepared data set its recorded hash."""
    recorded = recorded_hash(path)
    if recorded is not None:
        return recorded
    try:
        return os.stat(path).st_size or None
    except OSError:
        return None  # whoever reads it says so


def _hash(path: str) -> str | None:
    try:
        return content_hash(path)
    except UserError:
        return None
