"""Objects in a bucket (`gs://`, `s3://`) behind the interface of `pathlib.Path`.

`etils.epath` names them, as it does for orbax, and fsspec reaches them: gcsfs and s3fs, the extra
`[cloud]`. They find credentials by themselves, as the tools of the platform do, and ask again,
later and later, where a store answers 429 or 5xx.

A bucket has no folders, no links, no locks and no rename. An object is written by one request and
is whole or absent, so what is renamed into place on a disk is uploaded here; where many objects
belong together, the one that readers ask for first is written last.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import aiohttp
import fsspec
from etils.epath.gpath import PosixGPath

from invad_jax.errors import UnavailableError, UserError
from invad_jax.io import answers
from invad_jax.io.pool import at_once
from invad_jax.io.streams import Parts, Upload

# Else gcsfs asks for the kind of a bucket before each request, by another protocol. Zonal buckets,
# which alone need it, are for those who set this.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

_Answer = TypeVar("_Answer")

SILENCE_S = 60
"""After so many seconds without a byte a connection is given up."""
MOST_HELD = 2**26
"""Bytes of an object that is read at once; of a larger one, parts as they are asked for."""
ONE_REQUEST = 5 * 2**20
"""Bytes below which gcsfs uploads a file as one request."""
_ATTEMPTS, _FIRST_PAUSE_S = 4, 0.5
"""For what gcsfs and s3fs do not try again: an answer that stays out, one that is cut short."""


class Entry(NamedTuple):
    """An object, by a listing."""

    size: int
    version: str
    """Another one with each content."""


_listed: dict[str, Entry] = {}
"""URL -> what this process was told of it last."""


def _entry(info: Mapping[str, Any]) -> Entry:
    return Entry(int(info["size"]), str(info.get("generation") or info.get("ETag")))


def _remember(scheme: str, listed: Iterable[Mapping[str, Any]]) -> None:
    for info in listed:
        if info["type"] == "file":
            _listed[f"{scheme}://{info['name']}"] = _entry(info)


def _configure() -> None:
    """For every client of this process, those of orbax too, unless the user has said otherwise
    (`FSSPEC_GCS`, `FSSPEC_S3`): listings are not remembered, as others write, too; what is silent
    counts as broken, and is asked again."""
    silence = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
    ours: dict[str, dict[str, Any]] = {
        "gcs": {"use_listings_cache": False, "requests_timeout": silence},
        "s3": {"use_listings_cache": False},  # botocore: 60 s
    }
    for name, values in ours.items():
        fsspec.config.conf[name] = values | fsspec.config.conf.get(name, {})
    for talkative in ("gcsfs", "google.auth"):  # what fails is raised, too
        logging.getLogger(talkative).setLevel(logging.CRITICAL)
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(SILENCE_S))
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")


_configure()


class BucketPath(PosixGPath):
    """An object, or all whose names begin with its own and a slash."""

    def is_file(self) -> bool:
        """Whether it is an object."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether it is a bucket, or objects lie below it."""
        return self._kind() == "directory"

    def exists(self) -> bool:
        """Either of them."""
        return self._kind() is not None

    def size(self) -> int:
        """Bytes of an object."""
        return _entry(self._ask(lambda store, name: store.info(name))).size

    def entry(self) -> Entry:
        """What the store says of an object, or said when this process listed it."""
        known = _listed.get(str(self))
        return known or _entry(self._ask(lambda store, name: store.info(name)))

    def was_listed(self) -> bool:
        """Whether this process has seen it in a listing, which takes no request for each."""
        return str(self) in _listed

    @property
    def parents(self) -> tuple[BucketPath, ...]:  # type: ignore[override]
        """The folders that it is in; the last one is the bucket."""
        parts = self._name().split("/")
        names = ("/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
        return tuple(BucketPath(f"{self.scheme}://{name}") for name in names)

    def absolute(self) -> BucketPath:
        """Itself."""
        return self

    def iterdir(self) -> Iterator[BucketPath]:
        """What lies directly in it, sorted."""
        return (path for path, _ in self.scan())

    def scan(self) -> list[tuple[BucketPath, bool]]:
        """What lies directly in it, sorted, and whether it is a folder."""
        listed = self._ask(lambda store, name: store.ls(name, detail=True))
        entries = {e["name"].rstrip("/"): e["type"] == "directory" for e in listed}
        _remember(self.scheme, listed)
        own = entries.pop(self._name(), None)  # an object that stands for the folder
        if own is False and not entries and not str(listed[0]["name"]).endswith("/"):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self))
        return [(self / name.rpartition("/")[2], entries[name]) for name in sorted(entries)]

    def rglob(self, pattern: str) -> Iterator[BucketPath]:
        """Objects at any depth below it, sorted, by their last name."""
        found = self._ask(lambda store, name: store.find(name, detail=True))
        _remember(self.scheme, found.values())
        paths = (BucketPath(f"{self.scheme}://{name}") for name in sorted(found))
        return (path for path in paths if path != self and fnmatch(path.name, pattern))

    def glob(self, pattern: str) -> Iterator[BucketPath]:
        """What matches below it, sorted in each folder, as `glob.glob` has it: `**` is any number
        of folders, and names that begin with a dot match only what begins so."""
        head, slash, rest = pattern.partition("/")
        if head == "**" and slash:
            yield from self.glob(rest)
        for path, is_folder in self.scan() if self.is_dir() else []:
            if path.name.startswith(".") and not head.startswith("."):
                continue
            if head == "**":
                yield from [] if slash else [path]
                yield from path.glob(pattern) if is_folder else ()
            elif fnmatch(path.name, head) and (is_folder or not slash):
                yield from path.glob(rest) if slash else [path]

    def read_bytes(self) -> bytes:
        """All of an object, as long as the store says it is."""
        size = self.size()
        return self._read(0, size) if size else b""

    def open(  # type: ignore[override]
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Opens an object: to read it, or to write a small one, as a whole, when it is closed."""
        stream: Any = Upload(self._write) if mode in ("w", "wb") else self._reader()
        if mode in ("rb", "wb"):
            return stream
        return io.TextIOWrapper(stream, encoding or "utf-8", errors, newline)

    def _reader(self) -> Any:
        size = self.size()
        if size > MOST_HELD:
            return io.BufferedReader(Parts(self._read, size), MOST_HELD // 4)
        return io.BytesIO(self._read(0, size) if size else b"")

    def create(self, content: bytes) -> bool:
        """Writes the object where there is none; of several that try, one does."""
        try:
            self._ask(lambda store, name: store.pipe_file(name, content, mode="create"))
        except FileExistsError:  # our own, if an answer was lost and asked for again
            try:
                return self.read_bytes() == content
            except FileNotFoundError:  # another's, who has deleted it meanwhile
                return False
        return True

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there as soon as something is in it."""

    def upload(self, source: Path) -> None:
        """Writes a local file into the object, which until then stays what it is."""
        try:
            if source.stat().st_size < ONE_REQUEST:
                self._write(source.read_bytes())
            else:
                self._ask(lambda store, name: store.put_file(str(source), name))
        except FileNotFoundError as error:
            raise UserError(f"{self}: cannot be written: no such bucket") from error
        _listed.pop(str(self), None)
        if self.size() != source.stat().st_size:
            raise UserError(f"{self}: cannot be written: the store holds another size")

    def pieces(self) -> Iterator[bytes]:
        """The content of the object, as long as it was when it was listed, in order."""
        size, step = self.entry().size, MOST_HELD // 4  # several objects are read at a time
        return (self._read(start, min(start + step, size)) for start in range(0, size, step))

    def download(self, target: Path) -> None:
        """Writes the object into a local file."""
        with target.open("wb") as out:
            out.writelines(self.pieces())

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes an object."""
        _listed.pop(str(self), None)
        try:
            self._ask(lambda store, name: store.rm_file(name))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def replace(self, target: BucketPath) -> BucketPath:  # type: ignore[override]
        """Copies an object, then deletes it: no store can rename."""
        target._write(self.read_bytes())
        self.unlink()
        return target

    def rmtree(self, missing_ok: bool = False) -> None:
        """Deletes everything below it."""
        at_once(lambda path: path.unlink(missing_ok=True), self.rglob("*"))

    @property
    def scheme(self) -> str:
        """`gs` or `s3`."""
        return str(self).partition(":")[0]

    def _name(self) -> str:
        return str(self).partition("://")[2].rstrip("/")

    def _kind(self) -> str | None:
        try:
            return str(self._ask(lambda store, name: store.info(name))["type"])
        except FileNotFoundError:
            return None

    def _read(self, start: int, stop: int) -> bytes:
        def read(store: Any, name: str) -> bytes:
            data: bytes = store.cat_file(name, start=start, end=stop)
            if len(data) != stop - start:
                raise EOFError(f"{len(data)} bytes came, of {stop - start}")
            return data

        return self._ask(read)

    def _write(self, content: bytes) -> None:
        # In one request gcsfs ends content by a line feed: a carriage return before it is lost.
        apart = self.scheme == "gs" and content.endswith(b"\r")
        whole = {"chunksize": len(content)} if apart else {}
        self._ask(lambda store, name: store.pipe_file(name, content, **whole))
        _listed.pop(str(self), None)

    def _ask(self, question: Callable[[Any, str], _Answer]) -> _Answer:
        """What the store answers, in the words of a disk.

        Raises:
          FileNotFoundError: no such object.
          UnavailableError: it does not answer.
          UserError: it refuses.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return question(fsspec.filesystem(self.scheme), self._name())
            except FileNotFoundError as error:
                no_such = os.strerror(errno.ENOENT)
                raise FileNotFoundError(errno.ENOENT, no_such, str(self)) from error
            except FileExistsError:
                raise
            except (EOFError, TimeoutError, ConnectionError) as error:
                if attempt == _ATTEMPTS - 1:
                    raise UnavailableError(f"{self}: {answers.in_short(error)}") from error
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
            except Exception as error:  # of aiohttp, of botocore, of google.auth
                kind = UnavailableError if answers.is_away(error) else UserError
                raise kind(f"{self}: {answers.said(error, self.scheme, self._name())}") from error
        raise AssertionError
