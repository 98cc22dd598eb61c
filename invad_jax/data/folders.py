"""The files of one category, sorted by the names of their folders: images, masks, and what is left.

Everything below the folder is looked at once, links are followed, and nothing is dropped without a
word: what is neither an image to use nor a mask is in `Listing.left_out`, with the reason. Read
next: `mask_files.py`, which mask belongs to which image.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from invad_jax.data import names
from invad_jax.data.dataset import LeftOut
from invad_jax.errors import UserError
from invad_jax.io.paths import is_remote, leads_to_folder, scan


class File(NamedTuple):
    """An image or a mask."""

    path: str
    folders: tuple[str, ...]
    """Below the folder of the category, as they are called."""

    @property
    def name(self) -> str:
        """Of the file."""
        return os.path.basename(self.path)

    @property
    def stem(self) -> str:
        """The name without its extension."""
        return os.path.splitext(self.name)[0]

    @property
    def split(self) -> str | None:
        """`train` or `test`, by the first folder, or the first in a folder of masks; else None.

        `test_masks` says it too.
        """
        return _split(self.folders)

    @property
    def labels(self) -> tuple[str, ...]:
        """The folders without those that name a split, or that images or masks are in them."""
        return _labels(self.folders)


class Listing(NamedTuple):
    """What lies in the folder of a category, each part sorted by path."""

    images: list[File]
    masks: list[File]
    left_out: list[LeftOut]


def list_files(folder: Path, split: bool) -> Listing:
    """Lists the images and masks of a category.

    Args:
      folder: of the category.
      split: whether it is divided into `train` and `test`; other folders are then left out, but
        those of masks.

    Raises:
      UserError: a folder cannot be listed.
    """
    files, left_out = all_files(folder)
    if split:
        files = _without_other_splits(files, left_out)
    images: list[File] = []
    masks: list[File] = []
    for file in files:
        (masks if any(map(_is_mask_folder, file.folders)) else images).append(file)
    images = _without_other_data(images, left_out)
    beside = _masks_beside(images) | _masks_of_jpegs(images, left_out)
    masks = sorted([*masks, *beside], key=lambda file: file.path.split("/"))
    return Listing([file for file in images if file not in beside], masks, left_out)


def all_files(folder: Path) -> tuple[list[File], list[LeftOut]]:
    """Every image below a folder, sorted by path, and what is called like one and cannot be read.

    Raises:
      UserError: a folder cannot be listed.
    """
    left_out: list[LeftOut] = []
    files = sorted(_files(folder, left_out), key=lambda file: file.path.split("/"))
    return files, left_out


def subfolders(folder: Path) -> list[Path]:
    """Visible ones, links to folders included, sorted."""
    return [path for path, inner in scan(folder) if inner and not names.is_hidden(path.name)]


@lru_cache(maxsize=10_000)
def _split(folders: tuple[str, ...]) -> str | None:
    told = _told(folders)
    return names.SPLITS.get(names.plain(told[0])) if told else None


@lru_cache(maxsize=10_000)
def _labels(folders: tuple[str, ...]) -> tuple[str, ...]:
    told = _told(folders)
    return told[1:] if _split(folders) else told


def _told(folders: tuple[str, ...]) -> tuple[str, ...]:
    """What the folders say beside that images or masks are in them."""
    said = (name if (rest := names.mask_folder(name)) is None else rest for name in folders)
    return tuple(name for name in said if name and names.plain(name) not in names.IMAGES)


def _is_mask_folder(name: str) -> bool:
    return names.mask_folder(name) is not None


def _files(folder: Path, left_out: list[LeftOut]) -> Iterator[File]:
    """Every image file below `folder`, in no order; what cannot be used goes to `left_out`."""
    below = _objects(folder) if is_remote(folder) else _entries(folder, left_out)
    for path, folders, is_file in below:
        name = os.path.basename(path)
        if names.is_image(name) and is_file:
            yield File(path, folders)
        elif names.is_image(name):
            left_out.append(LeftOut("not files, in spite of their names", path))
        elif names.is_unread_format(name):
            left_out.append(LeftOut("images of a format that is not read", path))
        elif any(map(_is_mask_folder, folders)):
            left_out.append(LeftOut("files among masks that are no images", path))


def _objects(folder: Path) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Visible objects below a folder in a bucket, and the folders below it that each is in."""
    for path in folder.rglob("*"):
        parts = str(path).removeprefix(f"{folder}/").split("/")
        if not any(map(names.is_hidden, parts)):
            yield str(path), tuple(parts[:-1]), True


def _entries(folder: Path, left_out: list[LeftOut]) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """What is visible below a folder and no folder: path, folders below it, whether it is a file.

    Links that are no files go to `left_out`.
    """
    pending: list[tuple[str, tuple[str, ...], frozenset[tuple[int, int]]]]
    pending = [(str(folder), (), frozenset())]
    while pending:
        path, folders, above = pending.pop()
        try:
            status = os.stat(path)
            entries = list(os.scandir(path))
        except OSError as error:
            raise UserError(f"{path}: cannot be listed: {error.strerror}") from error
        place = status.st_dev, status.st_ino
        if place in above:
            left_out.append(LeftOut("links to a folder that they are in", path))
            continue
        for entry in entries:
            if names.is_hidden(entry.name):
                continue
            if leads_to_folder(entry):
                pending.append((entry.path, (*folders, entry.name), above | {place}))
            elif entry.is_symlink() and not os.path.isfile(entry.path):
                left_out.append(LeftOut("links that lead nowhere", entry.path))
            else:
                yield entry.path, folders, entry.is_file()


def _without_other_splits(files: Iterable[File], left_out: list[LeftOut]) -> list[File]:
    kept = []
    for file in files:
        if file.split or (file.folders and _is_mask_folder(file.folders[0])):
            kept.append(file)
        else:
            where = f"in {file.folders[0]}" if file.folders else "directly in a category"
            left_out.append(LeftOut(f"images {where}, which is neither train nor test", file.path))
    return kept


def _without_other_data(images: list[File], left_out: list[LeftOut]) -> list[File]:
    """Where a folder has its images in a folder of their own, what lies beside is other data."""
    own = {
        file.folders[:i]
        for file in images
        for i, name in enumerate(file.folders)
        if i > 0 and names.plain(name) in names.IMAGES
    }
    if not own:
        return images
    kept = []
    for file in images:
        beside = any(
            file.folders[:i] in own and names.plain(name) not in names.IMAGES
            for i, name in enumerate(file.folders)
        )
        if beside:
            left_out.append(LeftOut("files beside a folder of images", file.path))
        else:
            kept.append(file)
    return kept


def _masks_beside(images: Iterable[File]) -> set[File]:
    """The masks that lie in one folder with their images, as `000_mask.png` beside `000.png`."""
    stems: dict[tuple[str, ...], set[str]] = defaultdict(set)
    candidates = []
    for file in images:
        if names.mask_core(file.stem) is None:
            stems[file.folders].update(names.image_cores(file.stem))
        else:
            candidates.append(file)
    return {file for file in candidates if names.mask_core(file.stem) in stems[file.folders]}


def _masks_of_jpegs(images: Iterable[File], left_out: list[LeftOut]) -> set[File]:
    """Files without loss that are called like a JPEG beside them, as `000.png` beside `000.jpg`.

    They could be copies of it, so they are named; in neither case are they images of their own.
    """
    jpegs = {(file.folders, file.stem) for file in images if _is_jpeg(file)}
    twins = {f for f in images if not _is_jpeg(f) and (f.folders, f.stem) in jpegs}
    reason = "files called like a JPEG beside them, taken for its mask"
    left_out.extend(LeftOut(reason, file.path) for file in twins)
    return twins


def _is_jpeg(file: File) -> bool:
    return file.name.lower().endswith((".jpg", ".jpeg", ".jpe", ".jfif"))
