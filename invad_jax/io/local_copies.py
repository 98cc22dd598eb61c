"""Copies on this machine of objects that are read often: images, shards.

An object is copied once, whole, and found again by its URL and its version, so one that was
replaced is copied anew. Copies lie in `objects/` of the local cache folder. They take at most half
of the disk that is free; beyond it those go that were not used for longest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from invad_jax.errors import UnavailableError
from invad_jax.io import files
from invad_jax.io.bucket import BucketPath
from invad_jax.io.downloads import cache_dir
from invad_jax.io.paths import is_remote
from invad_jax.io.pool import at_once

_ABANDONED_S = 3600.0
"""After which what was not finished is of a process that was killed."""
_lock = threading.Lock()
_taken: dict[Path, int] = {}
"""Bytes of the copies in a folder, as far as this process knows."""


def opened(path: BucketPath) -> BinaryIO:
    """The copy of an object, for reading; errors as of `local_copy`."""
    for _ in range(3):  # another process may make room between these two
        copy = local_copy(path)
        with suppress(FileNotFoundError):
            return copy.open("rb")
    raise UnavailableError(f"{path}: no room for a copy in {folder()}")


def local_copy(path: BucketPath) -> Path:
    """The copy of an object.

    Raises:
      FileNotFoundError: there is no such object.
      UnavailableError: the store does not answer, or the disk is full.
    """
    entry = path.entry()
    key = hashlib.sha256(f"{path} {entry.version} {entry.size}".encode()).hexdigest()
    copy = folder() / key[:2] / (key[2:] + path.suffix)
    try:
        os.utime(copy)
        return copy
    except FileNotFoundError:
        pass
    _make_room(entry.size)
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=copy.parent) as partial:
            path.download(Path(partial, "copy"))
            Path(partial, "copy").replace(copy)
    except OSError as error:
        if error.filename and is_remote(str(error.filename)):
            raise
        raise UnavailableError(f"{copy.parent}: cannot be written: {error.strerror}") from error
    return copy


def local_copies(paths: Iterable[BucketPath]) -> list[Path]:
    """The copies of several objects, made at the same time."""
    copies = at_once(local_copy, paths)
    if not all(map(Path.exists, copies)):  # the last ones took the room of the first
        raise UnavailableError(f"{folder()}: no room for the copies of {len(copies)} objects")
    return copies


def local_folder(source: BucketPath) -> Path:
    """A folder of this machine that holds what lies directly in one of a bucket."""
    paths = [path for path, is_folder in source.scan() if not is_folder]
    copies = local_copies(paths)
    key = hashlib.sha256(" ".join(map(str, [source, *copies])).encode()).hexdigest()
    target = folder() / "folders" / key[:32]
    target.mkdir(parents=True, exist_ok=True)
    for path, copy in zip(paths, copies, strict=True):
        files.replace_link(target / path.name, str(copy.resolve()))
    return target


def folder() -> Path:
    """Where copies are kept."""
    return cache_dir() / "objects"


def _make_room(size: int) -> None:
    """Deletes the copies that were not used for longest where `size` bytes more are too many."""
    root = folder()
    with _lock:
        root.mkdir(parents=True, exist_ok=True)
        if root not in _taken:
            _taken[root] = sum(status.st_size for status, _ in _found(root))
        _taken[root] += size
        most = (shutil.disk_usage(root).free + _taken[root]) // 2
        if _taken[root] <= most:
            return
        found = list(_found(root))
        _taken[root] = sum(status.st_size for status, _ in found) + size
        for status, path in sorted(found, key=lambda one: one[0].st_mtime_ns):
            if _taken[root] <= most:
                break
            path.unlink(missing_ok=True)
            _taken[root] -= status.st_size


def _found(root: Path) -> Iterator[tuple[os.stat_result, Path]]:
    """The copies; what is not finished yet, and what another process deletes meanwhile, is none."""
    for path in root.glob("??/*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                yield status, path
            elif time.time() - _grew(path, status) > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)


def _grew(partial: Path, status: os.stat_result) -> float:
    """When a copy that is being made was last written to: its folder does not tell."""
    return max((path.stat().st_mtime for path in partial.iterdir()), default=status.st_mtime)
