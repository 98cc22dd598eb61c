"""Paths as a user writes them: of this machine, or in a bucket.

The one place that knows the difference. What lies in a bucket is reached by `bucket.py`, which is
imported for such a path alone, as are the packages that it needs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from invad_jax.errors import UserError

if TYPE_CHECKING:
    from invad_jax.io.bucket import BucketPath

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""As `gs://bucket`, or as a `Path` writes it; a letter alone is a drive."""
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
    from invad_jax.io import bucket

    return bucket.open_path(path)  # type: ignore[return-value]  # as far as it is used here


def is_remote(path: str | Path) -> TypeGuard[BucketPath]:
    """Whether a path is in a bucket.

    >>> is_remote("gs://bucket/x"), is_remote("gs:/bucket"), is_remote("runs/gs:/x")
    (True, False, False)
    """
    return _BUCKET.match(str(path)) is not None


def require_known(option: str, path: str | Path, buckets: bool = True) -> None:
    """Raises UserError for a path elsewhere in a network: it would become a local folder of that
    name.

    Args:
      option: named in the error.
      path: its value.
      buckets: whether this option takes them.

    >>> require_known("--out", "runs/gs:/x")
    """
    if _URL.match(str(path)) and not (buckets and is_remote(path)):
        also = ", gs:// and s3://" if buckets else ""
        raise UserError(f"{option}={path}: only local paths{also} are read and written here")
