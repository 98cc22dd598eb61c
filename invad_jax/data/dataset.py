"""What a data set is to the rest of the program, and what can be said of it.

Read next: `layouts.py`, which makes these out of what lies on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from invad_jax.data.records import recorded_hash
from invad_jax.errors import UserError

NORMAL_NAMES = ("good", "ok", "normal")
"""Folders and labels that mean normal, in any case; `Sample.defect` calls them all `good`."""


@dataclass(frozen=True)
class Sample:
    """One image."""

    path: str
    category: str
    defect: str
    """Kind of the defect; `good` for normal images."""
    gt_label: int
    """0 normal, 1 anomalous."""
    mask_path: str | None = None
    """None for a normal image, where nothing is anomalous, and where the mask is not known."""


@dataclass(frozen=True)
class Dataset:
    """Normal images to train on, and normal and anomalous ones to test, if there are any."""

    train: tuple[Sample, ...]
    test: tuple[Sample, ...] = ()


Categories = dict[str, Callable[[], Dataset]]
"""The categories that a layout finds, each to be listed when it is wanted."""


def is_normal(name: str) -> bool:
    """Whether a folder or a label of this name holds normal images."""
    return name.lower() in NORMAL_NAMES


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
    for category in {sample.category for sample in ordered}:
        members = [sample for sample in ordered if sample.category == category]
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
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def fingerprint(samples: Iterable[Sample]) -> str:
    """SHA-256 over labels and contents of images and masks, hex; names and order do not matter."""
    lines = sorted(
        f"{sample.gt_label} {content_hash(sample.path)} "
        f"{content_hash(sample.mask_path) if sample.mask_path else '-'}\n"
        for sample in samples
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
