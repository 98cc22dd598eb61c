"""One process at a time in a folder, on a disk and in a bucket."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from invad_jax.errors import UnavailableError, UserError
from invad_jax.io.paths import to_path
from invad_jax.runtime import locks
from tests import emulators

bucket = pytest.importorskip("invad_jax.io.bucket", reason="the extra [cloud] is missing")


def test_a_folder_is_held_by_one(tmp_path):
    folder = tmp_path / "new"
    with locks.alone(folder, "taken"), pytest.raises(UserError, match="new: taken"):
        locks.alone(folder, "taken").__enter__()
    with locks.alone(folder, "taken"):
        assert [path.name for path in folder.iterdir()] == [".lock"]


@pytest.fixture(scope="module", params=["gs", "s3"])
def scheme(request):
    with emulators.used(request.param):
        yield request.param


@pytest.fixture
def folder(scheme, request, monkeypatch):
    """One of a bucket, where no holder counts as dead only because this machine is slow."""
    monkeypatch.setattr(locks, "BEAT_S", 0.2)
    monkeypatch.setattr(locks, "STALE_S", 1000)
    return to_path(f"{scheme}://{emulators.BUCKET}/{request.node.name.partition('[')[0]}")


def names(folder):
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def of_another_machine(folder, number=7):
    path = folder / f".lock-{number:06d}"
    path.write_text(json.dumps({"id": "x", "machine": "other", "pid": 1, "started": "1"}))
    return path


def test_a_folder_of_a_bucket_is_held_by_one(folder):
    with locks.alone(folder, "taken"):
        assert names(folder) == [".lock-000001"]
        with pytest.raises(UnavailableError, match="one: taken"):
            locks.alone(folder, "taken").__enter__()
        assert names(folder) == [".lock-000001"]
    assert names(folder) == []
    with locks.alone(folder, "taken"):
        assert names(folder) == [".lock-000001"]


def test_a_lock_that_nobody_renews_is_taken_over(folder, monkeypatch):
    monkeypatch.setattr(locks, "STALE_S", 1.0)
    of_another_machine(folder)
    begun = time.monotonic()
    with locks.alone(folder, "taken"):
        assert time.monotonic() - begun >= locks.STALE_S
        assert names(folder) == [".lock-000008"]


def test_of_two_that_come_one_gets_it(folder):
    gone = {"id": "x", **locks._process(os.getpid()), "started": "1"}
    (folder / ".lock-000001").write_text(json.dumps(gone))
    held, refused, done = [], [], threading.Barrier(2)

    def wait(number):
        try:
            with locks.alone(folder, "taken"):
                held.append(number)
                done.wait(60)
        except UnavailableError:
            refused.append(number)
            done.wait(60)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == len(refused) == 1


def test_a_process_of_this_machine_that_was_killed_holds_nothing(folder):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lock = json.dumps({"id": "x", **locks._process(process.pid)})
    process.kill()
    while locks._process(process.pid)["started"]:  # before it is waited for, too
        time.sleep(0.01)
    (folder / ".lock-000001").write_text(lock)
    with locks.alone(folder, "taken"):
        assert names(folder) == [".lock-000002"]
    process.communicate()


@pytest.mark.parametrize("found", [[7], [1, 7], [], [1]])
def test_who_was_taken_for_dead_ends(folder, monkeypatch, caplog, found):
    """Another is at work, has ended, or a third has begun from the first number."""
    folder /= "-".join(map(str, found)) or "none"
    left, ended = [], threading.Event()
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(locks, "BEAT_S", 1000)  # it is suspended
    with locks.alone(folder, "taken"):
        (own,) = folder.iterdir()
        content = json.loads(own.read_bytes())
        own.unlink()
        for number in found:
            of_another_machine(folder, number)
        monkeypatch.setattr(locks, "BEAT_S", 0.01)
        late = threading.Timer(60, ended.set)
        late.start()
        locks._keep(own, content, ended)
        late.cancel()
    assert left == [UnavailableError.STATUS]
    assert names(folder) == [f".lock-{number:06d}" for number in found]
    assert "took this one for dead" in caplog.text


def test_a_beat_that_is_late_leaves_no_lock(folder, monkeypatch):
    writing, written, write = threading.Event(), threading.Event(), bucket.BucketPath._write

    def slow(path, content):
        writing.set()
        time.sleep(3 * locks.BEAT_S)
        write(path, content)
        written.set()

    monkeypatch.setattr(bucket.BucketPath, "_write", slow)
    with locks.alone(folder, "taken"):
        assert writing.wait(60)
    assert written.wait(60)
    assert names(folder) == []


@pytest.mark.parametrize("of", ["gs", "s3"])
def test_a_holder_whose_every_request_is_silent_once_is_not_taken_for_dead(of, monkeypatch):
    beat_s = locks.BEAT_S
    monkeypatch.setattr(locks, "BEAT_S", 0.2)
    beats, write = [], bucket.BucketPath._write

    def counted(path, content):
        write(path, content)
        beats.append(len(faults.asked))

    monkeypatch.setattr(bucket.BucketPath, "_write", counted)
    with (
        emulators.used(of, faults := emulators.Faults(0)),
        locks.alone(to_path(f"{of}://{emulators.BUCKET}/silent"), "taken"),
    ):
        while len(beats) < 4:
            time.sleep(0.01)
    requests = max(b - a for a, b in itertools.pairwise(beats[:4]))
    assert beat_s + requests * bucket.SILENCE_S < locks.STALE_S
