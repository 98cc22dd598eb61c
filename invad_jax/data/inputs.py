"""Which images a person means: files, folders with their subfolders, patterns.

Nothing is dropped without a word: what cannot be opened is named with its reason, and what is left
out is counted by kind.
"""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from invad_jax.data.names import is_image
from invad_jax.errors import UserError
from invad_jax.io import outputs
from invad_jax.io.files import read_bytes


class Inputs(NamedTuple):
    """What was found, in the order in which it was given, and sorted in each folder."""

    paths: list[str]
    names: list[str]
    """Of each, relative, parts between slashes: where it lies below what was given."""
    unusable: dict[int, str]
    """Row -> why there is nothing to read: a link that leads nowhere, a pipe, a closed folder."""
    left_out: Counter[str]
    """Kind -> number of files that were seen and not taken."""


def find(sources: Sequence[str | Path], option: str = "--input") -> Inputs:
    """Finds the images of files, folders and patterns; each is taken once.

    A file that is given by its name is taken whatever it is called. Of a folder all images are
    taken, by the ends of their names, also through links; hidden ones and what commands wrote
    are left out.

    Args:
      sources: paths, or patterns such as `parts/*.jpg` where no file has that very name.
      option: named in errors.

    Raises:
      UserError: there is no image in all of them.
    """
    given = [str(path) for source in sources for path in _expanded(str(source))]
    folders = [path for path in given if os.path.isdir(path)]
    for path in given:
        if len(given) == 1 and outputs.is_written(path):
            raise UserError(f"{option} {path}: was written by invad_jax itself; give photographs")
    found = Inputs([], [], {}, Counter())
    seen: set[str] = set()
    for path in given:
        if outputs.is_written(path):
            found.left_out["written by invad_jax"] += 1
        elif path in folders:
            prefix = Path(os.path.abspath(path)).name if len(given) > 1 else ""
            _add_folder(found, seen, path, prefix)
        else:
            _add(found, seen, path, os.path.basename(path))
    if len(found.unusable) == len(found.paths):
        raise UserError(_nothing(found, given, option))
    return found


def images_below(folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The images that lie in folders now, and their names as `Inputs.names`; sorted in each."""
    for folder in folders:
        prefix = Path(os.path.abspath(folder)).name if len(folders) > 1 else ""
        found = sorted(path for path, reason in _walk(folder, Counter()) if not reason)
        yield from ((path, _name_below(folder, prefix, path)) for path in found)


def require_usable(path: str) -> None:
    """Raises UserError where there is nothing to read, and for what this program drew."""
    reason = "written by invad_jax" if outputs.is_written(path) else _why_unusable(path)
    if reason:
        raise UserError(f"{path}: {reason}")


def listed(path: str | Path) -> list[str]:
    """The paths of a list file, one a line; empty lines are left out.

    Raises:
      UserError: it cannot be read, or names nothing.
    """
    text = read_bytes(path).decode("utf-8", errors="surrogateescape")
    found = [line for line in text.replace("\r\n", "\n").split("\n") if line]
    if not found:
        raise UserError(f"--list {path}: names no image")
    return found


def summary(left_out: Counter[str]) -> str:
    """What was left out, in words.

    >>> summary(Counter({"hidden": 2, "no image (.txt)": 1}))
    '2 hidden, 1 no image (.txt)'
    """
    return ", ".join(f"{count} {kind}" for kind, count in left_out.most_common())


def _expanded(source: str) -> list[str]:
    """A pattern as what it matches; anything else as it is."""
    if os.path.lexists(source) or not glob.has_magic(source):
        return [source]
    return sorted(glob.glob(source, recursive=True)) or [source]


def _add_folder(found: Inputs, seen: set[str], folder: str, prefix: str) -> None:
    below = []
    for path, reason in _walk(folder, found.left_out):
        below.append((path, _name_below(folder, prefix, path), reason))
    for path, name, reason in sorted(below, key=lambda file: Path(file[0])):
        _add(found, seen, path, name, reason)


def _name_below(folder: str, prefix: str, path: str) -> str:
    return os.path.join(prefix, os.path.relpath(path, folder)).replace(os.sep, "/")


def _add(found: Inputs, seen: set[str], path: str, name: str, reason: str = "") -> None:
    key = os.path.abspath(path)
    if key in seen:
        return
    seen.add(key)
    reason = reason or _why_unusable(path)
    if reason:
        found.unusable[len(found.paths)] = reason
    found.paths.append(path)
    found.names.append(name)


def _walk(folder: str, left_out: Counter[str]) -> Iterator[tuple[str, str]]:
    """Image files below a folder, and folders that cannot be listed with the reason."""
    closed: list[OSError] = []
    entered = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, onerror=closed.append, followlinks=True):
        ours = outputs.written_in(parent) if outputs.MARKER in files else frozenset[str]()
        folders[:] = [name for name in folders if _enters(parent, name, ours, entered, left_out)]
        for name in files:
            kind = _kind_left_out(name, ours)
            if kind:
                left_out[kind] += 1
            else:
                yield os.path.join(parent, name), ""
    for error in closed:
        yield str(error.filename), f"cannot be listed: {error.strerror}"


def _enters(
    parent: str, name: str, ours: frozenset[str], entered: set[str], left_out: Counter[str]
) -> bool:
    """Whether to look into a subfolder; each is entered once, however many links lead there."""
    if name.startswith(".") or name in ours:
        left_out["written by invad_jax" if name in ours else "hidden"] += 1
        return False
    place = os.path.realpath(os.path.join(parent, name))
    if place in entered:
        left_out["folder that is taken already"] += 1
        return False
    entered.add(place)
    return True


def _kind_left_out(name: str, ours: frozenset[str]) -> str:
    """Why a file of a folder is not taken; empty: it is."""
    if name in ours:
        return "written by invad_jax"
    if name.startswith("."):
        return "hidden"
    ending = os.path.splitext(name)[1].lower()
    return "" if is_image(name) else f"no image ({ending or 'no ending'})"


def _why_unusable(path: str) -> str:
    """Empty for a file; a pipe or a device would be waited for without end."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link that leads nowhere" if os.path.lexists(path) else "no such file or folder"
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    except ValueError:  # a zero byte
        return "no such file or folder"
    return "" if stat.S_ISREG(mode) else "not a file but a pipe, socket or device"


def _nothing(found: Inputs, given: Sequence[str], option: str) -> str:
    """Says that there is nothing to read, and why."""
    if found.unusable:
        row, reason = next(iter(found.unusable.items()))
        others = f" (and {len(found.paths) - 1} more)" if len(found.paths) > 1 else ""
        return f"{option} {found.paths[row]}: {reason}{others}"
    seen = f"; left out: {summary(found.left_out)}" if found.left_out else ""
    return f"{option} {' '.join(given[:3])}: holds no image{seen}"
