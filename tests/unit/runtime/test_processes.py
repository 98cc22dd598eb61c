"""What processes read that another has written."""

import pytest

from invad_jax.errors import UserError
from invad_jax.runtime import processes
from invad_jax.runtime.workdir import learnt_as


def test_a_shared_disk_may_show_late_what_was_written(monkeypatch):
    """First nothing, then what an earlier start left, then what is meant."""
    answers = [UserError("absent"), ("old", {"n": 1}), ("new", {"n": 2})]
    slept = []
    monkeypatch.setattr(processes.time, "sleep", slept.append)
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)

    def read():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert processes.as_written(lambda: learnt_as(read, {"n": 2})) == "new"
    assert len(slept) == 2


@pytest.mark.parametrize(("count", "times"), [(1, 1), (2, 61)])
def test_what_never_comes_is_an_error(monkeypatch, count, times):
    asked = []
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(processes.jax, "process_count", lambda: count)

    def read():
        asked.append(None)
        raise UserError("absent")

    with pytest.raises(UserError, match="absent"):
        processes.as_written(read)
    assert len(asked) == times
