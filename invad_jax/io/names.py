"""File names that are unique, fit the file system, and never lead out of their folder."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

LONGEST = 255
"""Bytes of a name, on every usual file system."""

_UNUSUAL = re.compile(r"[\x00-\x1f\x7f/\\\u0085\u2028\u2029]+")


def fitted(stem: str, ending: str) -> str:
    """A name of at most `LONGEST` bytes that has this ending; the stem is cut behind if it must.

    >>> fitted("part", ".png"), len(fitted("x" * 300, ".png"))
    ('part.png', 255)
    """
    room = LONGEST - len(ending)  # endings are ASCII
    if len(stem) > room or not stem.isascii():
        encoded = os.fsencode(stem)
        stem = stem if len(encoded) <= room else encoded[:room].decode(errors="ignore")
    return stem + ending


def one_part(text: str) -> str:
    """Any text as one part of a path: no separator, no line break, not `.` or `..`, not empty.

    >>> one_part("../../etc"), one_part(".."), one_part("a/b"), one_part("broken_large")
    ('..-..-etc', '-', 'a-b', 'broken_large')
    """
    part = fitted(_UNUSUAL.sub("-", text), "")
    return "-" if part in ("", ".", "..") else part


def unique(paths: Sequence[str], suffix: str) -> list[str]:
    """A place for what is made of each file: its own, under another suffix, and no two the same.

    Files of one folder that differ by their suffix alone keep it in the name (`a.jpg.png`); what is
    then still the same is numbered. Names that differ by case or by how an accent is written count
    as the same: on some disks they are. The time is linear in the number of files.

    Args:
      paths: relative, parts between slashes, no `..` among them.
      suffix: such as `.png`.

    >>> unique(["a.jpg", "a.png", "b.jpg"], ".png")
    ['a.jpg.png', 'a.png.png', 'b.png']
    """
    plain = []
    for path in paths:
        folder, slash, name = path.rpartition("/")
        plain.append(f"{folder}{slash}{fitted(os.path.splitext(name)[0], suffix)}")
    keys = [_key(name) for name in plain]
    folders = _folders(keys)  # in which names will lie: `x.png` may be one of them
    count = Counter([*keys, *folders])
    taken = {key for key in keys if count[key] == 1} | folders
    numbers: dict[str, int] = {}
    return [
        name if count[key] == 1 else _another(path, suffix, taken, numbers)
        for path, name, key in zip(paths, plain, keys, strict=True)
    ]


class Taken:
    """As `unique`, for what becomes known one by one: each has its name if that is free."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._tried: dict[str, int] = {}
        self._keys: set[str] = set()
        self._numbers: dict[str, int] = {}

    def new(self, wanted: str, suffix: str) -> str:
        """A name that was not given before.

        Args:
          wanted: relative, parts between slashes, no `..` among them.
          suffix: that takes the place of its own.

        >>> taken = Taken()
        >>> [taken.new("a.jpg", ".png") for _ in range(3)]
        ['a.png', 'a_2.png', 'a_3.png']
        """
        path, _ = _split(wanted)
        return _another(path, suffix, self._keys, self._numbers)

    def place(self, path: str, wanted: str, free: Callable[[str, bool], bool]) -> str:
        """The place for a file, the same as before while that is free.

        Args:
          path: of the file.
          wanted: as above; it keeps its suffix.
          free: whether a place is, as far as what lies on the disk, and whether it was this file's
            before; the first that is free is taken.

        >>> taken = Taken()
        >>> [taken.place(path, "a.jpg", lambda *_: True) for path in ("1/a.jpg", "2/a.jpg")]
        ['a.jpg', 'a_2.jpg']
        """
        known = self._names.get(path)
        if known is None or not free(known, True):
            stem, suffix = _split(wanted)
            number = 0 if known is None else self._tried.get(path, 1)
            place = ""
            while not place or _key(place) in self._keys or not free(place, False):
                number += 1
                place = _numbered(stem, suffix, number)
            if number > 1:
                self._tried[path] = number
            self._keys.add(_key(place))
            self._names[path] = place
        return self._names[path]


def _split(path: str) -> tuple[str, str]:
    """The stem, with its folders, and the suffix."""
    folder, slash, name = path.rpartition("/")
    stem, suffix = os.path.splitext(name)
    return f"{folder}{slash}{stem}", suffix


def _folders(keys: Sequence[str]) -> set[str]:
    """All folders of some paths, the outer ones too."""
    found: set[str] = set()
    for folder in {key.rpartition("/")[0] for key in keys}:
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _another(path: str, suffix: str, taken: set[str], numbers: dict[str, int]) -> str:
    """A name that is not among the keys in `taken`, where its key then is."""
    found, short = _numbered(path, suffix, 1), _short(path, suffix)
    group = _key(short)
    while _key(found) in taken:
        numbers[group] = numbers.get(group, 1) + 1
        found = f"{short}_{numbers[group]}{suffix}"
    taken.add(_key(found))
    return found


def _numbered(path: str, suffix: str, number: int) -> str:
    """A name as it is, or with a number from 2 on."""
    if number > 1:
        return f"{_short(path, suffix)}_{number}{suffix}"
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{fitted(name, suffix)}"


def _short(path: str, suffix: str) -> str:
    """Cut to where a number fits: names that a cut makes the same are counted together."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{fitted(name, '_00000000' + suffix)[: -len('_00000000' + suffix)]}"


def _key(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
