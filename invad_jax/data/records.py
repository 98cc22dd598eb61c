"""The records of a prepared data set (`build_dataset`), and the one place where bytes are read.

An image or a mask of a prepared data set has a path like a file's: `ROOT/SPLIT.array_record/NAME`,
where NAME is what the file was called before. So the rest of the program knows paths only, a worker
process needs nothing but a path, and any image can be read at any time. The names are looked up in
the listing that lies beside the records; it also holds the hash of every file, so that a run knows
its data without reading it.

TensorFlow Datasets reads the records, and needs no TensorFlow for it. Read next:
`tfds_builders.py`, which writes them.
"""

from __future__ import annotations

import functools
import io
import json
import re
import threading
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypedDict, cast

from invad_jax.errors import UnavailableError, UserError
from invad_jax.io import paths

_opening = threading.Lock()

REBUILD = "make it again with python -m invad_jax.build_dataset"

_SPLIT = re.compile(r"(.+)/(train|test)\.array_record", re.DOTALL)
_PATH = re.compile(rf"{_SPLIT.pattern}/(.+)", re.DOTALL)


class Row(TypedDict):
    """What the listing says of a record; the i-th of a split is of its i-th record."""

    path: str
    """Name of the image, relative to what all files of the data set have in common."""
    category: str
    defect: str
    label: int
    """0 normal, 1 anomalous."""
    sha256: str
    """Of the image file, hex."""
    mask: str | None
    """Name of the mask, if there is one."""
    mask_sha256: str | None


class _Entry(NamedTuple):
    """One file among the records."""

    record: int
    feature: str
    """`image` or `mask`."""
    sha256: str


def path_of(root: str | Path, split: str, name: str) -> str:
    """The path by which the rest of the program knows a file of a prepared data set.

    >>> path_of("/data/visa", "test", "candle/Data/Images/Anomaly/000.JPG")
    '/data/visa/test.array_record/candle/Data/Images/Anomaly/000.JPG'
    """
    return f"{root}/{split}.array_record/{name}"


def is_split(path: str | Path) -> bool:
    """Whether a path is that of all records of a split, as `path_of` begins."""
    return _SPLIT.fullmatch(str(path)) is not None and not paths.to_path(path).exists()


def images(path: str | Path) -> list[str]:
    """The names of the images of a split, by its path.

    Raises:
      UserError: there is no such data set.
    """
    found = _SPLIT.fullmatch(str(path))
    assert found, path
    root, split = found.groups()
    return [row["path"] for row in listing(root).get(split, [])]


def open_binary(path: str | Path) -> BinaryIO:
    """Opens a file of the disk or of a prepared data set for reading.

    Raises:
      UserError: the records are not there, are damaged, or hold no such file.
      OSError: a file of the disk cannot be opened.
    """
    found = _PATH.fullmatch(str(path))
    if not found:
        return paths.open_binary(path)
    root, split, name = found.groups()
    entry = _entry(root, split, name)
    try:
        example = _source(root, split)[entry.record]
        content, recorded = bytes(example[entry.feature]), example["path"].decode()
    except UnavailableError:
        raise
    except Exception as error:  # the readers of records and of their fields raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: its record is damaged ({reason[:120]}); {REBUILD}") from error
    if recorded != listing(root)[split][entry.record]["path"]:
        raise UserError(f"{path}: its record holds {recorded} instead; {REBUILD}")
    return io.BytesIO(content)


def recorded_hash(path: str | Path) -> str | None:
    """SHA-256 of a file of a prepared data set, hex, by its listing; None for one of the disk.

    Raises:
      UserError: the data set is not there, or holds no such file.
    """
    found = _PATH.fullmatch(str(path))
    return _entry(*found.groups()).sha256 if found else None


@functools.cache
def listing(root: str) -> dict[str, list[Row]]:
    """What a prepared data set holds, by split.

    Raises:
      UserError: it is not one.
    """
    folder = paths.to_path(root)
    if not root or not folder.is_dir():
        raise UserError(f"data.root={root}: no such folder")
    if not (folder / "dataset_info.json").is_file():
        raise UserError(
            f"data.root={root}: not a prepared data set (no dataset_info.json in it); make one "
            "with python -m invad_jax.build_dataset"
        )
    try:
        samples = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["samples"]
        return {split: [_row(values) for values in rows] for split, rows in samples.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"data.root={root}: metadata.json in it does not list the samples; {REBUILD}"
        ) from error


def _row(values: dict[str, Any]) -> Row:
    return cast(Row, {name: values[name] for name in Row.__annotations__})


def _entry(root: str, split: str, name: str) -> _Entry:
    try:
        return _entries(root, split)[name]
    except KeyError:
        raise UserError(f"data.root={root}: holds no {name} in split {split}") from None


@functools.cache
def _entries(root: str, split: str) -> dict[str, _Entry]:
    """The files of a split by their names."""
    entries: dict[str, _Entry] = {}
    for i, row in enumerate(listing(root).get(split, [])):
        if row["mask"] is not None and row["mask_sha256"] is not None:
            entries[row["mask"]] = _Entry(i, "mask", row["mask_sha256"])
    for i, row in enumerate(listing(root).get(split, [])):
        entries[row["path"]] = _Entry(i, "image", row["sha256"])
    return entries


def _source(root: str, split: str) -> Any:
    """Random access to the records of a split; may be read by many threads."""
    with _opening:  # the first of them alone copies what lies in a bucket
        return _opened(root, split)


@functools.cache
def _opened(root: str, split: str) -> Any:
    import tensorflow_datasets as tfds  # takes a second, which other layouts need not wait for

    return tfds.builder_from_directory(str(paths.local_folder(root))).as_data_source(split)
