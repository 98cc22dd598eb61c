"""Reading in other processes."""

import os
import signal
import subprocess
import sys

import pytest

from invad_jax.data import workers
from invad_jax.errors import UserError
from tests.commands import PROJECT


def square(number):
    return number**2


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_order_and_workers_end_with_an_early_end():
    results = workers.read_all(square, range(50), 2)
    assert [next(results) for _ in range(20)] == [number**2 for number in range(20)]
    results.close()


def test_nothing_to_read_is_nothing():
    assert list(workers.read_all(square, [], 2)) == []


ENDED_AT_ONCE = """
import os
from invad_jax.data import workers
from tests.unit.data.test_workers import own_id
if __name__ == "__main__":
    print(next(workers.read_all(own_id, range(9), 1)), flush=True)
    os._exit(0)
"""


def own_id(_):
    return os.getpid()


def test_workers_end_with_a_parent_that_is_ended_at_once(tmp_path):
    """They hold its standard output: who reads that would wait for them."""
    program = tmp_path / "program.py"
    program.write_text(ENDED_AT_ONCE)
    done = subprocess.run(
        [sys.executable, str(program)], stdout=subprocess.PIPE, text=True, timeout=60, check=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert int(done.stdout) > 0  # read to its end


def test_a_worker_that_is_ended_is_one_line():
    with pytest.raises(UserError, match=r"data\.num_workers=1: a process that reads was ended"):
        list(workers.read_all(die, range(3), 1))


def test_without_semaphores_it_says_what_to_do(monkeypatch):
    def refused(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", refused)
    with pytest.raises(UserError, match=r"no process can be started .*set data\.num_workers=0"):
        list(workers.read_all(square, range(3), 2))


def press_ctrl_c_while_processes_start():
    with workers._ctrl_c_is_ours():
        signal.raise_signal(signal.SIGINT)
        workers.after = True


def test_ctrl_c_while_processes_start_is_obeyed_afterwards(monkeypatch):
    monkeypatch.setattr(workers, "after", False, raising=False)
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c_while_processes_start()
    assert workers.after
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
