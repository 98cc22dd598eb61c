"""Paths as a user writes them: of this machine, or in a bucket.

The one place that knows the difference. What lies in a bucket is reached by `bucket.py`, which is
imported for such a path alone, as are the packages that it needs.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeGuard, cast

from invad_jax.errors import UserError

if TYPE_CHECKING:
    from invad_jax.io.bucket import BucketPath

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""As `gs://bucket`, or as a `Path` writes it; a letter alone is a drive."""
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
_BUCKET = re.compile(r"(?:gs|s3)://[^/]")


def to_path(path: str | Path) -> Path:
    """The path of a file or folder; one in a bucket answers as a `Path` does.

    Raises:
      UserError: the package that reads such a bucket is not installed.

    >>> to_path("runs/x")
    PosixPath('runs/x')
    """
    if not isinstance(path, str):
        return path
    if not is_remote(path):
        return Path(path)
    _require_package(path)
    from invad_jax.io.bucket import BucketPath

    return BucketPath(path)  # type: ignore[return-value]  # as far as it is used here


def _require_package(path: str) -> None:
    package = _PACKAGES[path.partition(":")[0]]
    if importlib.util.find_spec(package) is None:
        raise UserError(f'{path}: needs {package}: pip install "invad-jax[cloud]"')


def is_remote(path: str | Path) -> TypeGuard[BucketPath]:
    """Whether a path is in a bucket.

    >>> is_remote("gs://bucket/x"), is_remote("gs:/bucket"), is_remote("runs/gs:/x")
    (True, False, False)
    """
    return _BUCKET.match(str(path)) is not None


def open_binary(path: str | Path) -> BinaryIO:
    """Opens a file that is read often, such as an image; of an object, its copy on this machine.

    Raises:
      OSError: it is not there, or cannot be read.
      UserError: a store does not answer, or refuses.
    """
    if not is_remote(path):
        return open(path, "rb")
    from invad_jax.io import local_copies

    return local_copies.opened(cast("BucketPath", to_path(path)))


def local(path: str | Path) -> Path:
    """A file of this machine, or the copy of an object on it, for what reads files alone."""
    path = to_path(path)
    if not is_remote(path):
        return path
    from invad_jax.io import local_copies

    return local_copies.local_copy(path)


def local_files(paths: Sequence[Path]) -> list[Path]:
    """As `local`, for several at the same time."""
    if not any(map(is_remote, paths)):
        return list(paths)
    from invad_jax.io import local_copies

    return local_copies.local_copies(cast("Sequence[BucketPath]", paths))


def local_folder(folder: str | Path) -> Path:
    """A folder of this machine, or one that holds copies of what lies directly in a bucket's."""
    folder = to_path(folder)
    if not is_remote(folder):
        return folder
    from invad_jax.io import local_copies

    return local_copies.local_folder(folder)


def size_of(path: str | Path) -> int:
    """Bytes of a file; raises OSError where there is none."""
    path = to_path(path)
    return path.entry().size if is_remote(path) else path.stat().st_size


def note_files(folder: Path) -> None:
    """To be called before `has_file` is asked for many files of a folder: one listing of a bucket
    takes the place of a request for each."""
    if is_remote(folder):
        for _ in folder.rglob("*"):
            pass


def has_file(path: Path) -> bool:
    """Whether there is a file, or was when it was listed."""
    return path.was_listed() or path.is_file() if is_remote(path) else os.path.isfile(path)


def scan(folder: Path) -> list[tuple[Path, bool]]:
    """What lies in a folder, sorted, and whether it is one: without asking for each."""
    if is_remote(folder):
        return folder.scan()  # type: ignore[return-value]  # as above
    return sorted((path, path.is_dir()) for path in folder.iterdir())


def leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one, or may be: of a closed one, listing says so. A link
    that leads to itself leads to none."""
    try:
        return entry.is_dir()
    except OSError as error:
        return error.errno != errno.ELOOP


def require_known(option: str, path: str | Path, buckets: bool = True) -> None:
    """Raises UserError for a path elsewhere in a network, which would become a local folder of that
    name, and for one in a bucket where the package is missing that reads it.

    Args:
      option: named in the error.
      path: its value.
      buckets: whether this option takes them.

    >>> require_known("--out", "runs/gs:/x")
    """
    if _URL.match(str(path)) and not (buckets and is_remote(path)):
        also = ", gs:// and s3://" if buckets else ""
        raise UserError(f"{option}={path}: only local paths{also} are read and written here")
    if is_remote(path):
        _require_package(str(path))
