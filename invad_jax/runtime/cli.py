"""The command line of every command: options that explain themselves, one-line errors, status.

`--help` and a wrong option answer at once: a command imports what needs JAX, or draws, in `main`,
after the options are known to be right. Nothing here imports JAX before.
"""

from __future__ import annotations

import argparse
import gc
import io
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from invad_jax.config import Config
from invad_jax.config import io as config_io
from invad_jax.errors import UnavailableError, UserError, did_you_mean
from invad_jax.io import files
from invad_jax.io.paths import require_known, to_path
from invad_jax.runtime import compiled_programs, interrupts, log
from invad_jax.runtime import workdir as workdirs
from invad_jax.runtime.workdir import Source

Main = Callable[[argparse.Namespace], int | None]
MOST_SHOWN = 100
"""Values of one option in a command that is shown."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line that names the nearest option."""

    def __init__(self, doc: str | None):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.in_buckets = {"workdir", "model"}
        """Options whose paths may be in one."""

    def add_config(self, help: str = "configs/X.py") -> None:
        """`--config` and `--set`."""
        self.add_argument("--config", metavar="FILE", help=help)
        self.add_set("change one option of the config; may be given many times")

    def add_set(self, help: str) -> None:
        """`--set`, whose values end up in one list."""
        self.add_argument(
            "--set",
            action="extend",
            nargs="+",
            default=[],
            metavar="section.option=value",
            help=help,
        )

    def add_run(
        self, distributed: bool = True, workdir: str = "of the run; default runs/X"
    ) -> None:
        """What every command of a workdir takes; `--distributed` where many processes can."""
        self.add_config()
        self.add_argument("--workdir", metavar="DIR", help=workdir)
        if not distributed:
            self.set_defaults(distributed=False)
            return
        self.add_argument(
            "--distributed",
            action="store_true",
            help="join the other processes of this job (TPU pod, SLURM, Open MPI, Kubernetes, "
            "launch/cpu_processes.sh)",
        )

    def add_model(self) -> None:
        """`--model`, where a detector is only used."""
        self.add_argument(
            "--model", metavar="FILE_OR_DIR", help="what `export` wrote, or a workdir"
        )

    def add_rate(self, help: str) -> None:
        """`--false-positive-rate`, which `source_of` takes as an option of the config."""
        self.add_argument("--false-positive-rate", type=float, metavar="RATE", help=help)

    def error(self, message: str) -> NoReturn:
        """Raises `UserError` where argparse would print its usage and leave."""
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized") and unknown:
            known = [o for action in self._actions for o in action.option_strings]
            message += did_you_mean(unknown[0], known)
        raise UserError(message)


def run(main: Main, parser: Parser, argv: Sequence[str] | None, preemptible: bool = False) -> int:
    """Parses `argv` (None: the process's own), starts this process and runs `main`.

    Args:
      main: the command; what was typed is `args.typed`.
      parser: its options.
      argv: None: the process's own.
      preemptible: `main` looks at `StopSignal`; else SIGTERM ends what has joined others at once.

    Returns:
      The exit status: what `main` returns (None is 0); 2 and one line for what is the user's to
      mend (see `_line`); 130 and one line for Ctrl-C, 143 for SIGTERM.
    """
    # Importing and tracing make objects that stay: looking through them again and again takes a
    # twentieth of a start.
    if argv is None:
        gc.set_threshold(10_000, 10, 10)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that is no Unicode, in a table
    try:
        args = parser.parse_args(argv)
        words = sys.argv[1:] if argv is None else argv
        for option, value in vars(args).items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str | Path):
                    require_known(
                        f"--{option.replace('_', '-')}", text, option in parser.in_buckets
                    )
        args.typed = _typed(main, words)
        compiled_programs.keep()
        if getattr(args, "distributed", False):
            return _run_with_others(main, args, preemptible)
        log.configure()
        with interrupts.unwound():
            return main(args) or 0
    except (Exception, KeyboardInterrupt) as error:
        print(_line(error), file=sys.stderr)
        return _status(error)


def _typed(main: Main, words: Sequence[str]) -> str:
    """A command for the pages that show it; of very many values of an option the first ones."""
    verb = Path(str(sys.modules[main.__module__].__file__)).stem  # of `__main__` too
    shown = ["python", "-m", f"invad_jax.{verb}"]
    values = 0
    for word in words:
        values = 0 if word.startswith("--") else values + 1
        if values <= MOST_SHOWN:
            shown.append(word)
        elif values == MOST_SHOWN + 1:
            shown.append("...")
    text = shlex.join(shown)
    # a name need not be valid Unicode
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _run_with_others(main: Main, args: argparse.Namespace, preemptible: bool) -> int:
    """Joins the other processes first; one that fails ends without waiting for them."""
    from invad_jax.runtime import processes

    joined = False
    try:
        processes.join(preemptible)
        joined = True
        log.configure(processes.is_primary())
        return main(args) or 0
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, UserError) and not joined:  # there is nobody to leave behind
            raise
        try:
            print(_line(error), file=sys.stderr)
            status = _status(error)
        except type(error):
            traceback.print_exc()
            status = 1
    return processes.leave(status)


def _status(error: BaseException) -> int:
    """That a command leaves with, after its line."""
    if isinstance(error, KeyboardInterrupt):
        return interrupts.outcome(error)[1]
    return UnavailableError.STATUS if isinstance(error, UnavailableError) else 2


def _line(error: BaseException) -> str:
    """What went wrong in one line; raises the error again where it is no fault of the user's."""
    if isinstance(error, KeyboardInterrupt):
        return interrupts.outcome(error)[0]
    if isinstance(error, UserError | UnavailableError):
        return "error: " + " ".join(str(error).splitlines())  # a path may hold line breaks
    if isinstance(error, OSError) and error.errno in files.DISK_ERRORS:
        return f"error: {error.filename or 'disk'}: {error.strerror}"
    of_xla = type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error)
    if of_xla or isinstance(error, MemoryError):
        return (
            f"error: out of memory ({' '.join(str(error).split())[:150]}); lower train.batch_size, "
            "eval.batch_size, data.image_size or the denoiser's sizes"
        )
    raise error


def workdir_of(args: argparse.Namespace) -> Path:
    """`--workdir`, or `runs/X` for `--config configs/X.py`."""
    if args.workdir:
        return to_path(args.workdir)
    if args.config:
        return Path("runs") / Path(args.config).stem
    raise UserError("give --config configs/X.py or --workdir DIR")


def source_of(args: argparse.Namespace) -> Source:
    """The detector that is asked for, by `--model` or as a workdir, and its options.

    Raises:
      UserError: both are given, more than a file can do, or options that are wrong.
    """
    path = _model_of(args)
    rate = getattr(args, "false_positive_rate", None)
    if rate is not None:
        args.set = [*args.set, f"calibration.false_positive_rate={rate}"]
    return workdirs.source_of(path, args.config, args.set)


def _model_of(args: argparse.Namespace) -> Path:
    if not args.model:
        return workdir_of(args)
    path = to_path(args.model)
    if args.workdir or (args.config and path.is_file()):
        raise UserError("--model: give it alone, without --workdir or --config")
    if path.is_file() and args.distributed:
        raise UserError(f"--model {path}: runs on one device; --distributed takes a workdir")
    return path


def config_of(args: argparse.Namespace) -> Config:
    """The config file with the `--set` changes."""
    if not args.config:
        raise UserError("give --config configs/X.py")
    return config_io.override(config_io.load(args.config), args.set)
