"""Folders that one process works in at a time.

On a disk the system holds a lock, and lets go of it when the process ends, however it does. A
bucket has no locks, but can make an object only where there is none. Who holds a folder there has
made the object `.lock-N` of the highest N, and writes it anew every `BEAT_S`. Another waits until
that has not changed for `STALE_S`, by its own clock, and then makes the next; of several who try,
the store lets one. It need not wait where the lock is of a process of this very machine that is
gone. A holder that does not find its own lock as the newest was taken for dead, and ends: numbers
start again where all have let go, so it also looks whose the lock is.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from invad_jax.errors import UnavailableError, UserError
from invad_jax.io import files
from invad_jax.io.paths import is_remote, to_path
from invad_jax.runtime.log import log

LOCK = ".lock"
"""How the names of these files begin."""
BEAT_S, STALE_S = 10.0, 240.0
"""Seconds. A beat makes three requests, each of which may be silent for 60 of them before it is
made again (`bucket.SILENCE_S`): at worst 190 lie between two signs of life."""
_WITHOUT_LOCKS = frozenset((errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EINVAL))


@contextmanager
def alone(folder: str | Path, busy: str) -> Iterator[int]:
    """Holds a folder for this process; on a disk, also for those that inherit the hold.

    Where the file system knows no locks, nothing is held.

    Args:
      folder: created when missing; gets a file that begins with `LOCK`.
      busy: the message where another process holds it.

    Yields:
      The file descriptor to inherit.

    Raises:
      UserError: held by another, on a disk, or the folder cannot be written.
      UnavailableError: held by another, in a bucket, where who was killed may seem to hold it yet.
    """
    folder = to_path(folder)
    if is_remote(folder):
        with open(os.devnull) as nothing, _leased(folder, busy):  # type: ignore[arg-type]
            yield nothing.fileno()
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("w")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: {busy}") from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
        yield stream.fileno()


@contextmanager
def _leased(folder: Path, busy: str) -> Iterator[None]:
    """Holds a folder of a bucket."""
    content = {"id": uuid.uuid4().hex, **_process(os.getpid())}
    path, ended = _taken(folder, busy, content), threading.Event()
    beat = threading.Thread(target=_keep, args=(path, content, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join(STALE_S)
        with suppress(UserError, UnavailableError):  # it will be found stale
            # Not while a beat may still write it.
            if not beat.is_alive() and _is_ours(path, content):
                path.unlink(missing_ok=True)


def _taken(folder: Path, busy: str, content: dict[str, Any]) -> Path:
    """The lock that this process made, as soon as it may."""
    seen, since = None, 0.0
    while True:
        found = _locks(folder)
        newest = found[-1] if found else None
        if newest is None or _is_gone(newest) or (seen and time.monotonic() - since > STALE_S):
            path = folder / f"{LOCK}-{_number(newest) + 1:06d}"
            if path.create(_encoded(content, 0)):  # type: ignore[attr-defined]
                if _locks(folder)[-1:] == [path]:
                    for old in found:
                        old.unlink(missing_ok=True)
                    return path
                path.unlink(missing_ok=True)
            seen = None  # another was faster
            continue
        version = newest.entry()  # type: ignore[attr-defined]
        if seen and version != seen:
            raise UnavailableError(f"{folder}: {busy}")
        if not seen:
            log.info("%s: held by another; waiting at most %.0f s to see it alive", folder, STALE_S)
            seen, since = version, time.monotonic()
        time.sleep(BEAT_S / 10)


def _keep(path: Path, content: dict[str, Any], ended: threading.Event) -> None:
    """Shows that this process is there, until it has ended or lost its place."""
    count = 0
    while not ended.wait(BEAT_S):
        count += 1
        try:
            if not _is_ours(path, content):
                log.error("error: %s: taken by another, which took this one for dead", path.parent)
                return _leave()
            if not ended.is_set():
                path.write_bytes(_encoded(content, count))
        except (UserError, UnavailableError, OSError) as error:  # it is away for others, too
            log.warning("%s: not renewed: %s", path, error)


def _leave() -> None:
    os._exit(UnavailableError.STATUS)


def _is_ours(path: Path, content: dict[str, Any]) -> bool:
    """Whether the newest lock of its folder is this one, and of this process."""
    if _locks(path.parent)[-1:] != [path]:
        return False
    try:
        found = json.loads(files.read_as_listed(path))
    except (FileNotFoundError, ValueError):  # gone meanwhile, or of another length
        return False
    return isinstance(found, dict) and found.get("id") == content["id"]


def _locks(folder: Path) -> list[Path]:
    try:
        found = list(folder.iterdir())
    except FileNotFoundError:
        return []
    return [path for path in found if path.name.startswith(f"{LOCK}-")]


def _number(path: Path | None) -> int:
    return int(path.name.rpartition("-")[2]) if path else 0


def _encoded(content: dict[str, Any], count: int) -> bytes:
    return json.dumps(content | {"count": count}).encode()


def _is_gone(lock: Path) -> bool:
    """Whether it is of a process of this machine that is there no more."""
    try:
        content = json.loads(files.read_bytes(lock))
        now = _process(content["pid"])
        return content["machine"] == now["machine"] and content["started"] != now["started"]
    except (UserError, ValueError, KeyError, TypeError):
        return False


def _process(pid: int) -> dict[str, Any]:
    """What no other process has ever had: the boot, the name space of its number, its start."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return {"pid": pid, "machine": uuid.uuid4().hex, "started": None}  # no Linux: like no other
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        state, fields = "X", []
    started = None if state in "XZ" else fields[18]  # Z: killed, and not yet waited for
    return {"pid": pid, "machine": machine, "started": started}
