"""Folders that commands write into: what a command wrote is known by a file that lies beside it.

So nothing else is ever replaced, and no picture that was drawn here is taken for a photograph.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.io.paths import is_remote, to_path

MARKER = "made_by_invad_jax.json"
"""{command: names of the files and folders that it may replace in the folder of this file}."""


def claim(
    folder: str | Path,
    command: str,
    names: Sequence[str],
    trusted: bool = False,
    option: str = "--out",
) -> None:
    """Makes a folder one that `command` writes `names` into; to be called before it does.

    Args:
      folder: made if it is not there.
      command: such as `predict`.
      names: of files and folders directly in it.
      trusted: what lies there under these names is the command's own, with no file that says so.
      option: named in errors.

    Raises:
      UserError: one of them is there and is not known to be this command's, or the folder cannot
        be written.
    """
    folder = to_path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{option} {folder}: is a file; give a folder")
    owners = _owners(folder)
    for name in names:
        if name not in owners.get(command, ()) and not trusted and _holds(folder / name):
            raise UserError(
                f"{option} {folder}: {name} is there already, and was not written by {command}; "
                "give another folder"
            )
    files.write_json(
        folder / MARKER, owners | {command: sorted({*owners.get(command, ()), *names})}
    )


def written_in(folder: str | Path) -> frozenset[str]:
    """Names in a folder that commands wrote; the file that says so is one of them."""
    owners = _owners(to_path(folder))
    names = {name for names in owners.values() for name in names}
    return frozenset(names | {MARKER} if owners else names)


def is_written(path: str | Path, known: dict[Path, frozenset[str]] | None = None) -> bool:
    """Whether a file or folder is, or lies in, what a command wrote.

    Args:
      path: of either.
      known: where many are asked about, one after the other: each folder is looked into once.
    """
    path = to_path(path) if is_remote(path) else Path(os.path.abspath(path))
    known = {} if known is None else known
    for inner, outer in zip((path, *path.parents), path.parents, strict=False):
        if outer not in known:
            known[outer] = written_in(outer)
        if inner.name in known[outer]:
            return True
    return False


def _holds(path: Path) -> bool:
    """Whether something is there that could be lost: an empty folder could not."""
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() if is_remote(path) else os.path.lexists(path)


def _owners(folder: Path) -> dict[str, list[str]]:
    """What the marker says; nothing where there is none that can be understood."""
    try:
        content = files.read_json(folder / MARKER)
    except UserError:
        return {}
    if not isinstance(content, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in content.values()
    ):
        return {}
    return content
