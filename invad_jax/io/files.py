"""Files and folders that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from invad_jax.errors import UserError
from invad_jax.io.paths import is_remote, to_path
from invad_jax.io.pool import at_once

if TYPE_CHECKING:
    from invad_jax.io.bucket import BucketPath

_Answer = TypeVar("_Answer")
_UMASK = os.umask(0o077)  # asked for once, while nothing else of this process writes
os.umask(_UMASK)

DISK_ERRORS = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
    )
)
"""What a full, broken or forbidden disk answers, or one on which a path makes no sense: the user's
to mend, no fault of the program."""


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on a clean exit it is renamed to `path`.

    For one in a bucket, a path on this machine; on a clean exit it is uploaded.

    Raises:
      UserError: the folder or the bucket cannot be written.

    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with replaced(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    path = to_path(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="invad_jax-") as folder:
            yield Path(folder, path.name)
            path.upload(Path(folder, path.name))
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # of a name as long as the file system allows, only the beginning
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)  # mkstemp makes files private
        temporary.replace(path)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def replace_link(path: Path, target: str) -> None:
    """Makes `path` a symbolic link to a target, in the place of what file or link it is.

    Raises:
      UserError: the folder cannot be written.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.link")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.symlink_to(target)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on a clean exit it is renamed to `path`.

    For one in a bucket, a folder on this machine; on a clean exit its files are uploaded, those
    that readers ask for first last: see `upload_folder`.

    Raises:
      UserError: `path` exists and is not an empty folder, or cannot be written.
    """
    path = to_path(path).absolute()
    require_new(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="invad_jax-") as name:
            yield Path(name)
            upload_folder(Path(name), path)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_UMASK)  # mkdtemp makes folders private
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_new(path: Path) -> None:
    """Raises UserError unless nothing is there, or an empty folder."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        how = ", whole or in part" if is_remote(path) else ""  # an upload may have broken off
        raise UserError(f"{path}: exists already{how}; give a new or an empty folder")


class Growing:
    """A folder whose files grow: in a bucket, where nothing can be appended, they are written on
    this machine and uploaded now and then."""

    EVERY_S = 30.0

    def __init__(self, target: Path):
        self.target, self._uploaded = target, time.monotonic()
        self.folder = target
        """Where to write."""
        if is_remote(target):
            self.folder = Path(tempfile.mkdtemp(prefix="invad_jax-"))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def update(self) -> None:
        """To be called after each addition."""
        if time.monotonic() - self._uploaded >= self.EVERY_S:
            self.close()

    def close(self) -> None:
        """Uploads what was added since."""
        if is_remote(self.target):
            upload_folder(self.folder, self.target)
        self._uploaded = time.monotonic()


def upload_folder(source: Path, target: BucketPath) -> None:
    """Uploads the files of a local folder, the deepest first, and JSON behind what it tells of."""
    found = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    for path in sorted(found, key=lambda path: (-len(path.parts), path.suffix == ".json", path)):
        (target / path.as_posix()).upload(source / path)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON atomically; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_bytes(path: str | Path) -> bytes:
    """All of a file.

    Raises:
      UserError: missing, unreadable, larger than the memory, or no file with an end: a pipe or a
        device, of which reading would wait for ever.
    """
    path = to_path(path)
    try:
        if is_remote(path):
            return path.read_bytes()
        # Opening a pipe waits for its other end, unless told not to.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise UserError(f"{path}: cannot be read: no regular file")
            return stream.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except MemoryError:
        raise UserError(f"{path}: cannot be read: larger than the memory") from None


def read_json(path: str | Path) -> Any:
    """Reads JSON.

    Raises:
      UserError: missing, unreadable or malformed.
    """
    try:
        return json.loads(read_bytes(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: not valid JSON: {reason}") from error


def below(head: str, values: dict[str, Any]) -> dict[str, Any]:
    """Values whose names begin with `head.`, without it.

    >>> below("a", {"a.b": 1, "c.d": 2})
    {'b': 1}
    """
    return {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{head}.")}


def digests(folder: str | Path, skip: Sequence[str] = ()) -> dict[str, str]:
    """SHA-256 of every file below a folder: relative path -> hexadecimal digest.

    Args:
      folder: read recursively.
      skip: names of files to leave out.
    """
    root = to_path(folder)
    paths = sorted(path for path in root.rglob("*") if path.name not in skip)
    if not is_remote(root):  # whose listing has objects alone
        paths = [path for path in paths if path.is_file()]
    names = (path.relative_to(root).as_posix() for path in paths)
    return dict(zip(names, each(_sha256_as_listed, paths), strict=True))


def each(work: Callable[[Path], _Answer], paths: Sequence[Path]) -> list[_Answer]:
    """What becomes of each path, in order: of objects in a bucket, several at the same time."""
    return at_once(work, paths) if any(map(is_remote, paths)) else list(map(work, paths))


def read_as_listed(path: Path) -> bytes:
    """As `read_bytes`; of an object in a bucket, by its size when it was listed: one request."""
    return b"".join(path.pieces()) if is_remote(path) else read_bytes(path)


def _sha256_as_listed(path: Path) -> str:
    if not is_remote(path):
        return sha256(path)
    digest = hashlib.sha256()
    for part in path.pieces():
        digest.update(part)
    return digest.hexdigest()


def sha256(path: str | Path) -> str:
    """Of a file's content, hexadecimal."""
    with to_path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
