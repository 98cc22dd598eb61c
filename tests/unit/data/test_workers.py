"""Reading in other processes."""

import os
import signal

import pytest

from invad_jax.data import workers
from invad_jax.errors import UserError


def square(number):
    return number**2


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_order_and_workers_end_with_an_early_end():
    results = workers.read_all(square, range(50), 2)
    assert [next(results) for _ in range(20)] == [number**2 for number in range(20)]
    results.close()


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
