"""What every main shares: starting, one-line errors, logging, scalars, versions."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
import tensorboardX
from jax.experimental import multihost_utils

import invad_jax
from invad_jax import cli
from invad_jax import config as config_lib
from invad_jax.errors import UserError

log = logging.getLogger("invad_jax")


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
        help="join the other processes of this job (TPU pod, SLURM, Open MPI, Kubernetes)",
    )  # fmt: skip
    return parser


def run(
    main: Callable[[argparse.Namespace], int | None],
    parser: cli.Parser,
    argv: Sequence[str] | None,
) -> int:
    """Starts this process, then runs `main`; returns the exit status (see `cli.run`)."""

    def start(args: argparse.Namespace) -> int | None:
        args.set = [assignment for group in args.set for assignment in group]
        if args.distributed:
            # First of all, and never inside a try of its own: a process that failed to join would
            # train alone, as one of N separate runs.
            jax.distributed.initialize()
        _configure_logging()
        return main(args)

    return cli.run(start, parser, argv)


def default_workdir(args: argparse.Namespace) -> Path:
    """`--workdir`, or `runs/X` for `--config configs/X.py`."""
    if args.workdir:
        return Path(args.workdir)
    if args.config:
        return Path("runs") / Path(args.config).stem
    raise UserError("give --config configs/X.py or --workdir DIR")


def load_config(args: argparse.Namespace) -> config_lib.Config:
    """The config file with the `--set` changes."""
    if not args.config:
        raise UserError("give --config configs/X.py")
    return config_lib.override(config_lib.load(args.config), args.set)


def is_primary() -> bool:
    """Whether this process writes files and prints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here, so that what one wrote the others can read."""
    multihost_utils.sync_global_devices(name)


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
        self._writer = None
        if is_primary():
            self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds one point to each curve."""
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def write_pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Adds pictures, (H, W, 3) uint8 each."""
        if self._writer is not None:
            for name, picture in pictures.items():
                self._writer.add_image(name, picture, step, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Flushes."""
        if self._writer is not None:
            self._writer.close()


class StopSignal:
    """Turns SIGTERM (preemption) and the first SIGINT into a flag that the loop looks at."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._previous[number])  # a second one acts at once


def _configure_logging() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO if is_primary() else logging.WARNING)
    log.propagate = False
