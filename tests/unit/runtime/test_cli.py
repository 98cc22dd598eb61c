"""What every command has in common: one line for what is the user's, and for a signal."""

import errno
import importlib
import re
import signal
import threading

import jax
import pytest

from invad_jax import (
    benchmark,
    build_dataset,
    calibrate,
    compare,
    convert,
    export,
    plan,
    predict,
    pull,
    push,
    serve,
    sweep,
    train,
    train_vae,
)  # fmt: skip
from invad_jax import eval as eval_main
from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.runtime import cli, interrupts, processes
from tests.commands import PROJECT


@pytest.fixture(autouse=True)
def interruptible():
    """Shells in the background and pytest-xdist ignore Ctrl-C, and processes that they start do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def outcome(main, capsys, *argv):
    status = cli.run(main, cli.Parser("test"), list(argv))
    return status, capsys.readouterr().err


def raising(error):
    def main(args):
        raise error

    return main


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGINT, (130, "interrupted\n")), (signal.SIGTERM, (143, "terminated\n"))],
)
def test_a_signal_is_one_line_and_leaves_nothing_unfinished(number, expected, tmp_path, capsys):
    def main(args):
        with files.new_folder(tmp_path / "made") as folder:
            (folder / "half").touch()
            signal.raise_signal(number)

    before = signal.getsignal(number)
    assert outcome(main, capsys) == expected
    assert signal.getsignal(number) is before
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_the_process_even_if_its_exception_is_lost(monkeypatch):
    left = threading.Event()
    monkeypatch.setattr(interrupts, "GRACE", 0.01)
    monkeypatch.setattr(interrupts, "leave", lambda *_: left.set())
    with interrupts.unwound():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            assert left.wait(60)  # seconds; it takes a hundredth
    assert threading.active_count() >= 1


def test_ctrl_c_ends_nothing_later_once_the_command_is_done(monkeypatch):
    left = threading.Event()
    monkeypatch.setattr(interrupts, "GRACE", 2)
    monkeypatch.setattr(interrupts, "leave", lambda *_: left.set())
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), interrupts.unwound():
        signal.raise_signal(signal.SIGINT)
    for thread in set(threading.enumerate()) - before:
        if isinstance(thread, threading.Timer):
            thread.join()  # at once where it was cancelled
    assert not left.is_set()


def test_where_ctrl_c_is_ignored_it_stays_so(capsys):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert outcome(lambda args: signal.raise_signal(signal.SIGINT), capsys) == (0, "")
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("x: wrong"), "error: x: wrong\n"),
        (OSError(errno.ENOSPC, "No space left", "a/b"), "error: a/b: No space left\n"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a"), "error: a: File name too long\n"),
        (MemoryError("of 9 GB"), "error: out of memory (of 9 GB); lower train.batch_size"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB\nused"),
         "error: out of memory (RESOURCE_EXHAUSTED: 9 GB used); lower"),
    ],
)  # fmt: skip
def test_what_is_the_users_is_one_line_and_status_2(error, message, capsys):
    status, said = outcome(raising(error), capsys)
    assert status == 2
    assert said.startswith(message)
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(errno.EBADF, "x"), jax.errors.JaxRuntimeError("INTERNAL")]
)
def test_a_fault_of_the_program_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        cli.run(raising(error), cli.Parser("test"), [])


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--set", "a.b=1 2", "--workdir", "it's"], "--set 'a.b=1 2' --workdir 'it'\"'\"'s'"),
        (["--input", *map(str, range(200)), "--out", "x"], " 98 99 ... --out x"),
        (["--input", "\udcff.png"], "--input '\ufffd.png'"),
    ],
)
def test_what_was_typed_is_known(words, shown):
    typed = cli._typed(eval_main.main, words)
    assert typed.startswith("python -m invad_jax.eval --")
    assert typed.endswith(shown)


@pytest.mark.parametrize("status", [0, 1])
def test_who_is_through_waits_for_the_first_of_a_job(monkeypatch, status):
    """Which still writes: only a failure ends a process, and with it the job, at once."""
    left = []
    monkeypatch.setattr(processes, "join", lambda preemptible: None)
    monkeypatch.setattr(processes, "leave", lambda status: left.append(status) or status)
    parser = cli.Parser("test")
    parser.add_run()
    assert cli.run(lambda args: status, parser, ["--distributed"]) == status
    assert left == []
    cli.run(raising(UserError("x")), parser, ["--distributed"])
    assert left == [2]
    monkeypatch.setattr(processes, "join", raising(RuntimeError("no device")))
    cli.run(lambda args: status, parser, ["--distributed"])
    assert left == [2, 1]  # others may be waiting for it
    monkeypatch.setattr(processes, "join", raising(UserError("no processes to join")))
    assert cli.run(lambda args: status, parser, ["--distributed"]) == 2
    assert left == [2, 1]


@pytest.mark.parametrize("command", [calibrate, export, serve])
def test_what_one_process_does_is_not_offered_to_many(command, capsys):
    assert command.cli(["--workdir", "x", "--distributed"]) == 2
    assert "unrecognized arguments: --distributed" in capsys.readouterr().err


REMOTE = [
    (train, ["--config", "gs://b/x.py"]),
    (train, ["--workdir", "az://b/run", "--config", "configs/folder.py"]),
    (eval_main, ["--workdir", "run", "--out", "gs:/b/out"]),
    (predict, ["--workdir", "run", "--input", "images", "--out", "hdfs://b/x"]),
    (convert, ["--to", "invad-pytorch", "--output", "az://b/x", "--workdir", "run"]),
    (build_dataset, ["--layout", "mvtec", "--root", "x", "--out", "gs:/b"]),
    (benchmark, ["--workdir", "run", "--trace", "gs://b/x"]),
    (serve, ["--model", "x.invad", "--history", "gs://b/x"]),
    (serve, ["--model", "x.invad", "--watch", "gs://b/x"]),
    (push, ["--model", "gs://b/run", "--repo", "a/b"]),
    (pull, ["--repo", "a/b", "--out", "s3://b/x"]),
]  # fmt: skip


@pytest.mark.parametrize(("command", "argv"), REMOTE)
def test_what_takes_no_bucket_says_so_in_one_line_and_makes_no_folder(
    command, argv, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert command.cli(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search("only local paths(, gs:// and s3://)? are read and written here$", line)
    assert list(tmp_path.iterdir()) == []


BUCKETS = [
    (train, ["--workdir", "gs://b/run", "--config", "configs/folder.py"]),
    (train_vae, ["--workdir", "s3://b/run", "--config", "configs/folder.py"]),
    (eval_main, ["--workdir", "gs://b/run"]),
    (predict, ["--workdir", "s3://b/run", "--input", "gs://b/images", "--out", "gs://b/x"]),
    (predict, ["--workdir", "x", "--input", "x", "--out", "x", "--sort-into", "gs://b/x"]),
    (predict, ["--workdir", "x", "--list", "gs://b/x", "--out", "x"]),
    (calibrate, ["--model", "gs://b/x.invad", "--normal", "gs://b/x", "--out", "gs://b/y.invad"]),
    (export, ["--validate", "gs://b/x.invad"]),
    (convert, ["--from", "invad-pytorch", "--input", "gs://b/x", "--workdir", "run"]),
    (build_dataset, ["--layout", "mvtec", "--root", "gs://b/x", "--out", "gs://b/y"]),
    (compare, ["gs://b/run", "run"]),
    (sweep, ["--config", "configs/folder.py", "--over", "data.image_size=32", "--out", "s3://b/x"]),
    (plan, ["--config", "configs/folder.py", "--topology", "cpu:8", "--json", "gs://b/x.json"]),
]


@pytest.mark.parametrize(("command", "argv"), BUCKETS)
def test_a_bucket_without_the_extra_is_one_line(command, argv, capsys, monkeypatch):
    monkeypatch.chdir(PROJECT)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: find(name) if name[-2:] != "fs" else None
    )
    assert command.cli(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r's: pip install "invad-jax\[cloud\]"$', line)
