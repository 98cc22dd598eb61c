"""What every main shares: starting, one-line errors, logging, scalars, versions."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.distributed
import numpy as np
import tensorboardX
from jax.experimental import multihost_utils

import invad_jax
from invad_jax import cli, config_io
from invad_jax.config import Config
from invad_jax.errors import UserError

log = logging.getLogger("invad_jax")

HEARTBEAT_TIMEOUT = 60
"""Seconds of silence after which a process counts as dead, and every other one ends. Mostly a
broken connection tells it at once."""
SHUTDOWN_TIMEOUT = 3600
"""Seconds that processes with nothing left to do wait for the first, which writes the report."""


def make_parser(doc: str | None) -> cli.Parser:
    """A parser with what every main takes: `--config`, `--workdir`, `--set`, `--distributed`."""
    parser = cli.Parser(doc)
    parser.add_argument("--config", metavar="FILE", help="configs/X.py")
    parser.add_argument("--workdir", metavar="DIR", help="of the run; default runs/X")
    parser.add_argument(
        "--set", action="append", nargs="+", default=[], metavar="section.option=value",
        help="change one option of the config; may be given many times",
    )  # fmt: skip
    parser.add_argument(
        "--distributed", action="store_true",
        help="join the other processes of this job (TPU pod, SLURM, Open MPI, Kubernetes, "
        "launch/cpu_processes.sh)",
    )  # fmt: skip
    return parser


def run(
    main: Callable[[argparse.Namespace], int | None],
    parser: cli.Parser,
    argv: Sequence[str] | None,
    preemptible: bool = False,
) -> int:
    """Starts this process, then runs `main`; returns the exit status (see `cli.run`).

    Args:
      main: the command.
      parser: of `make_parser`.
      argv: None: the process's own.
      preemptible: `main` looks at `StopSignal`; else SIGTERM ends its processes at once.
    """

    def start(args: argparse.Namespace) -> int | None:
        args.set = [assignment for group in args.set for assignment in group]
        if args.distributed:
            _join(preemptible)
        _configure_logging()
        return main(args)

    try:
        status = cli.run(start, parser, argv)
    except (Exception, KeyboardInterrupt):
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        status = 1
    if status and jax.distributed.is_initialized():
        # An orderly end would wait for the others, which may be waiting for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _join(preemptible: bool) -> None:
    """Joins the other processes, first of all.

    On Cloud TPU, SLURM, Open MPI and Kubernetes JAX finds them by itself. Elsewhere three variables
    name them: JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES, JAX_PROCESS_ID.

    Raises:
      UserError: there is nothing to join. Going on alone would make N separate runs of a job.
    """
    jax.config.update("jax_enable_preemption_service", preemptible)
    try:
        count, number = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if number is None else int(number),
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed: no processes to join ({error}); on Cloud TPU, SLURM, Open MPI and "
            "Kubernetes they are found, elsewhere use launch/cpu_processes.sh or set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error


def default_workdir(args: argparse.Namespace) -> Path:
    """`--workdir`, or `runs/X` for `--config configs/X.py`."""
    if args.workdir:
        return Path(args.workdir)
    if args.config:
        return Path("runs") / Path(args.config).stem
    raise UserError("give --config configs/X.py or --workdir DIR")


def load_config(args: argparse.Namespace) -> Config:
    """The config file with the `--set` changes."""
    if not args.config:
        raise UserError("give --config configs/X.py")
    return config_io.override(config_io.load(args.config), args.set)


def is_primary() -> bool:
    """Whether this process writes files and prints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here, so that what one wrote the others can read."""
    multihost_utils.sync_global_devices(name)


def primary_says(flag: bool) -> bool:
    """The flag of the primary process, on every process."""
    return bool(multihost_utils.broadcast_one_to_all(np.array(flag)))


def versions() -> dict[str, str]:
    """Of everything that can change a number."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
    return {
        "invad_jax": invad_jax.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def device_summary() -> dict[str, Any]:
    """Platform, kind and number of the devices of all processes."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
    }


class ScalarWriter:
    """TensorBoard scalars and pictures, from the primary process only."""

    def __init__(self, folder: Path, first_step: int):
        """`first_step`: what an earlier, unbroken-off run logged from there on is superseded."""
        self._writer, self._folder = None, folder
        if is_primary():
            self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds one point to each curve."""
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
            self._flush(self._writer)

    def write_pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Adds pictures, (H, W, 3) uint8 each."""
        if self._writer is not None:
            for name, picture in pictures.items():
                self._writer.add_image(name, picture, step, dataformats="HWC")
            self._flush(self._writer)

    def close(self) -> None:
        """Flushes."""
        if self._writer is not None:
            self._flush(self._writer)
            self._writer.close()

    def _flush(self, writer: tensorboardX.SummaryWriter) -> None:
        try:
            writer.flush()
        except OSError as error:
            raise UserError(f"{self._folder}: cannot be written: {error.strerror}") from error


class StopSignal:
    """Turns SIGTERM (preemption) and the first SIGINT into a flag that the loop looks at.

    Of several processes it is enough that one is told: JAX takes the SIGTERM, and the processes
    agree on the next step that all of them reach.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)
        else:  # SIGTERM is JAX's own already
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._terminate)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if jax.process_count() > 1:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nobody would look at it any more

    def at(self, step: int) -> bool:
        """Whether to stop before `step`; to be asked at every step, the same on all processes."""
        if jax.process_count() == 1:
            return self.requested
        return multihost_utils.reached_preemption_sync_point(step)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._previous[number])  # a second one acts at once

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, self._previous[number])
        signal.raise_signal(signal.SIGTERM)


def _configure_logging() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO if is_primary() else logging.WARNING)
    log.propagate = False
