"""What a data set is to the rest of the program, and what can be said of it.

Read next: `layouts.py`, which makes these out of what lies on disk.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from invad_jax.data.records import open_binary, recorded_hash
from invad_jax.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One image."""

    path: str
    category: str
    defect: str
    """Kind of the defect; `good` for normal images."""
    gt_label: int
    """0 normal, 1 anomalous."""
    mask_paths: tuple[str, ...] = ()
    """What any of them marks is anomalous. Empty for a normal image, where nothing is, and where it
    is not known what is."""


class LeftOut(NamedTuple):
    """A file of a data set that is not used."""

    reason: str
    """What it and others are, in the plural."""
    path: str


@dataclass(frozen=True)
class Dataset:
    """Normal images to train on, and normal and anomalous ones to test, if there are any."""

    train: tuple[Sample, ...]
    test: tuple[Sample, ...] = ()
    left_out: tuple[LeftOut, ...] = field(default=(), compare=False)


def report_left_out(left_out: Iterable[LeftOut]) -> None:
    """Says in the log how many files are not used, why, and the first of them."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for reason, path in left_out:
        by_reason[reason].append(path)
    for reason, paths in by_reason.items():
        log.info("left out, %s: %d (%s)", reason, len(paths), some(sorted(paths)))


Categories = dict[str, Callable[[], Dataset]]
"""The categories that a layout finds, each to be listed when it is wanted."""


def some(items: Sequence[str]) -> str:
    """The first three of a list, and how many more there are.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(items[:3]) + more


def hold_out(
    train: Sequence[Sample], fraction: float
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Divides training images into those to fit on and those held out, the same way every time.

    In each category, sorted by path, the held-out images are evenly spread: files often lie in the
    order in which they were taken, and all conditions should be met by both parts. A category of
    two or more images gives at least one and never all; a single image is not held out.

    Args:
      train: samples.
      fraction: share to hold out, 0..1.

    Returns:
      (fit, held_out), each sorted by category and path.

    >>> train = [Sample(f"{i}.png", "nut", "good", 0) for i in range(6)]
    >>> [sample.path for sample in hold_out(train, 0.3)[1]]
    ['1.png', '4.png']
    """
    held_out: set[Sample] = set()
    ordered = sorted(train, key=lambda sample: (sample.category, sample.path))
    for _, group in itertools.groupby(ordered, key=lambda sample: sample.category):
        members = list(group)
        total = len(members)
        count = min(max(round(total * fraction), 1), total - 1) if fraction > 0 else 0
        held_out.update(members[(2 * i + 1) * total // (2 * count)] for i in range(count))
    return (
        tuple(sample for sample in ordered if sample not in held_out),
        tuple(sample for sample in ordered if sample in held_out),
    )


def content_hash(path: str | Path) -> str:
    """SHA-256 of a file, hex; of one in a prepared data set, as it was when it was prepared.

    Raises:
      UserError: it cannot be read.
    """
    recorded = recorded_hash(path)
    if recorded is not None:
        return recorded
    try:
        with open_binary(path) as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def fingerprint(samples: Sequence[Sample], contents: Sequence[str] | None = None) -> str:
    """SHA-256 over labels and contents of images and masks, hex; names and order do not matter.

    Args:
      samples: N of them.
      contents: N `content_hash`es of the images, where they are known.
    """
    if contents is None:
        contents = [content_hash(sample.path) for sample in samples]
    lines = sorted(
        f"{sample.gt_label} {content} {' '.join(map(content_hash, sample.mask_paths)) or '-'}\n"
        for sample, content in zip(samples, contents, strict=True)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
