"""Which images a person means: files, folders with their subfolders, patterns.

Nothing is dropped without a word: what cannot be opened is named with its reason, and what is left
out is counted by kind.
"""

from __future__ import annotations

import glob
import itertools
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from invad_jax.data import records
from invad_jax.data.names import is_hidden, is_image
from invad_jax.errors import UserError
from invad_jax.io import outputs
from invad_jax.io.paths import has_file, is_remote, leads_to_folder, scan, to_path

_UNLISTED, _UNOPENED = "cannot be listed", "cannot be opened"
_CLOSED = (_UNLISTED, _UNOPENED)
"""How reasons begin where the system does not say what is there."""
_MOST_FOLDERS = 10_000
"""Of which it is kept in mind whether commands wrote something there."""


class Found(NamedTuple):
    """One image that a person means."""

    path: str
    name: str
    """Relative, parts between slashes: where it lies below what was given."""
    reason: str = ""
    """Why there is nothing to read: a link that leads nowhere, a pipe, a closed folder."""


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
    found, seen = Inputs([], [], {}, Counter()), set[str]()
    for path, name, reason in each(sources, found.left_out, option):
        key = path if is_remote(path) else os.path.abspath(path)
        if key in seen:
            continue
        seen.add(key)
        if reason:
            found.unusable[len(found.paths)] = reason
        found.paths.append(path)
        found.names.append(name)
    if len(found.unusable) == len(found.paths):
        raise UserError(_nothing(found, sources, option))
    return found


def each(
    sources: Iterable[str | Path], left_out: Counter[str], option: str = "--input"
) -> Iterator[Found]:
    """As `find`, one by one as they are found, and those that are given twice twice.

    Memory: the names in one folder, or of one prepared data set.

    Args:
      sources: as of `find`.
      left_out: counts what is not taken.
      option: named in errors.

    Raises:
      UserError: the only source is what a command wrote.
    """
    given = (path for source in sources for path in _expanded(str(source)))
    first = list(itertools.islice(given, 2))
    several = len(first) > 1
    known: dict[Path, frozenset[str]] = {}
    for path in itertools.chain(first, given):
        if len(known) > _MOST_FOLDERS:
            known.clear()
        if outputs.is_written(path, known):
            if not several:
                raise UserError(
                    f"{option} {path}: was written by invad_jax itself; give photographs"
                )
            left_out["written by invad_jax"] += 1
            continue
        folder_name = Path(os.path.abspath(path)).name if several else ""
        if path and _leads_to_a_folder(path):
            for below, reason in _walk(path, left_out, {os.path.realpath(path)}):
                yield Found(below, _name_below(path, folder_name, below), reason)
        elif records.is_split(path):
            for name in records.images(path):
                yield Found(f"{path}/{name}", name)
        else:
            yield Found(path, os.path.basename(path), _why_unusable(path))


def images_below(folders: Sequence[str], closed: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The images that lie in folders now, and their names as `Inputs.names`; sorted in each.

    Args:
      folders: of this machine.
      closed: gets the folders and files of which the system does not say what they are, and why.
    """
    for folder in folders:
        prefix = Path(os.path.abspath(folder)).name if len(folders) > 1 else ""
        for path, reason in _walk(folder, Counter(), {os.path.realpath(folder)}):
            if not reason:
                yield path, _name_below(folder, prefix, path)
            elif reason.startswith(_CLOSED):
                closed[path] = reason


def require_usable(path: str) -> None:
    """Raises UserError where there is nothing to read, and for what this program drew."""
    reason = "written by invad_jax" if outputs.is_written(path) else _why_unusable(path)
    if reason:
        raise UserError(f"{path}: {reason}")


def listed(path: str | Path) -> Iterator[str]:
    """The paths of a list file, one a line, as they are read; empty lines are left out.

    Raises:
      UserError: it cannot be read, or names nothing.
    """
    path, empty = to_path(path), True
    if path.exists() and not path.is_file():  # of a pipe or a device there is no end
        raise UserError(f"--list {path}: is not a file")
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            for line in stream:
                name = line.removesuffix("\n").removesuffix("\r")
                if name:
                    empty = False
                    yield name
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if empty:
        raise UserError(f"--list {path}: names no image")


def summary(left_out: Counter[str]) -> str:
    """What was left out, in words.

    >>> summary(Counter({"hidden": 2, "no image (.txt)": 1}))
    '2 hidden, 1 no image (.txt)'
    """
    return ", ".join(f"{count} {kind}" for kind, count in left_out.most_common())


def _expanded(source: str) -> list[str]:
    """A pattern as what it matches; anything else as it is."""
    if not glob.has_magic(source):
        return [source]
    if is_remote(source):
        parts = itertools.takewhile(lambda part: not glob.has_magic(part), source.split("/"))
        plain = "/".join(parts)
        return [str(path) for path in to_path(plain).glob(source[len(plain) + 1 :])] or [source]
    if os.path.lexists(source):
        return [source]
    return sorted(glob.glob(source, recursive=True)) or [source]


def _name_below(folder: str, prefix: str, path: str) -> str:
    return os.path.join(prefix, os.path.relpath(path, folder)).replace(os.sep, "/")


def _walk(folder: str, left_out: Counter[str], entered: set[str]) -> Iterator[tuple[str, str]]:
    """Image files below a folder in the order of their paths, part by part, and why one, or a
    folder, cannot be read; empty: it can."""
    try:
        there = _entries(folder)
    except OSError as error:
        yield folder, f"{_UNLISTED}: {error.strerror}"
        return
    names = {name for name, *_ in there}
    ours = outputs.written_in(folder) if outputs.MARKER in names else frozenset[str]()
    inner = sorted((is_link, name) for name, is_link, is_folder, _ in there if is_folder)
    entering = {name for _, name in inner if _enters(folder, name, ours, entered, left_out)}
    for name, _, is_folder, is_file in there:
        path = os.path.join(folder, name)
        kind = "" if is_folder else _kind_left_out(name, ours)
        if name in entering:
            yield from _walk(path, left_out, entered)
        elif kind:
            left_out[kind] += 1
        elif not is_folder:
            yield path, "" if is_file else _why_unusable(path)


def _entries(folder: str) -> list[tuple[str, bool, bool, bool]]:
    """Sorted: name, whether it is a link, leads to a folder, is a file itself."""
    if is_remote(folder):
        found = scan(to_path(folder))
        return [(path.name, False, is_folder, not is_folder) for path, is_folder in found]
    with os.scandir(folder) as entries:
        return sorted((e.name, e.is_symlink(), leads_to_folder(e), _is_file(e)) for e in entries)


def _leads_to_a_folder(path: str) -> bool:
    """As the system says; where it does not, `_why_unusable` says why."""
    if not is_remote(path):
        return os.path.isdir(path)
    place: Any = to_path(path)
    return not place.was_listed() and place.is_dir()


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Without asking for each file: the folder knows, unless it is a link."""
    return entry.is_file(follow_symlinks=False)


def _enters(
    parent: str, name: str, ours: frozenset[str], entered: set[str], left_out: Counter[str]
) -> bool:
    """Whether to look into a subfolder; each is entered once, however many links lead there."""
    if is_hidden(name) or name in ours:
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
    if is_remote(path):
        return "" if has_file(to_path(path)) else "no such object"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link that leads nowhere" if os.path.lexists(path) else "no such file or folder"
    except OSError as error:
        return f"{_UNOPENED}: {error.strerror}"
    except ValueError:  # a zero byte
        return "no such file or folder"
    return "" if stat.S_ISREG(mode) else "not a file but a pipe, socket or device"


def _nothing(found: Inputs, given: Sequence[str | Path], option: str) -> str:
    """Says that there is nothing to read, and why."""
    if found.unusable:
        row, reason = next(iter(found.unusable.items()))
        others = f" (and {len(found.paths) - 1} more)" if len(found.paths) > 1 else ""
        return f"{option} {found.paths[row]}: {reason}{others}"
    seen = f"; left out: {summary(found.left_out)}" if found.left_out else ""
    return f"{option} {' '.join(map(str, given[:3]))}: holds no image{seen}"
