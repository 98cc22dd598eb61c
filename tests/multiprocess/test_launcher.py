"""`launch/cpu_processes.sh` with programs of one line: what it passes on, and how it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.commands import LAUNCHER, process_ids

ID = "import os, sys, time; number = int(os.environ['JAX_PROCESS_ID'])\n"
READY = "sys.stdout.write('ready' + chr(10)); sys.stdout.flush(); time.sleep(600)"
GRACE = 1  # s


def start(count, program):
    return subprocess.Popen(
        [LAUNCHER, str(count), "-c", ID + program],
        env={**os.environ, "PYTHON": sys.executable, "GRACE": str(GRACE)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def end(job):
    """(exit status, what was printed)."""
    output, _ = job.communicate(timeout=60)
    return job.returncode, output


def test_every_process_knows_the_others_and_its_own_number():
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PLATFORMS")
    words = f"[str(number), *map(os.environ.get, {names}), *sys.argv[1:]]"
    status, output = end(start(3, f"sys.stdout.write(' '.join({words}) + chr(10))"))
    assert status == 0
    lines = sorted(output.splitlines())
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
    (rest,) = {line.split(maxsplit=1)[1] for line in lines}
    address, count, platform, argument = rest.split()
    host, port = address.split(":")
    assert (host, count, platform, argument) == ("127.0.0.1", "3", "cpu", "--distributed")
    assert 1024 <= int(port) < 65536


@pytest.mark.parametrize("failing", [0, 1])
def test_the_status_is_that_of_the_process_that_failed(failing):
    assert end(start(2, f"sys.exit(3 * (number == {failing}))"))[0] == 3


def test_processes_that_outlive_a_failed_one_are_killed():
    begun = time.monotonic()
    status, _ = end(start(2, "time.sleep(600 * number); sys.exit(4)"))
    assert status == 4
    assert time.monotonic() - begun < 30  # s; two, on a free machine


def test_sigterm_is_passed_on_and_so_is_the_status():
    handler = "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    job = start(2, handler + READY)
    assert [job.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    job.send_signal(signal.SIGTERM)
    assert end(job)[0] == 0


def test_a_killed_process_is_a_failure():
    job = start(2, READY)
    assert [job.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    os.kill(process_ids(job)[1], signal.SIGKILL)
    assert end(job)[0] == 128 + signal.SIGKILL


@pytest.mark.parametrize("arguments", [[], ["2"], ["0", "-m", "x"], ["two", "-m", "x"]])
def test_wrong_arguments_are_one_line(arguments):
    done = subprocess.run([LAUNCHER, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
    assert len(done.stderr.splitlines()) == 1
