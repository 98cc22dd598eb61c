"""The processes of a job: joining them, who writes, what they agree on; versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import jax
import jax.distributed
import numpy as np
from jax.experimental import multihost_utils

from invad_jax.errors import UserError
from invad_jax.runtime import compiled_programs
from invad_jax.version import __version__

T = TypeVar("T")

HEARTBEAT_TIMEOUT = 60
"""Seconds of silence after which a process counts as dead, and every other one ends. Mostly a
broken connection tells it at once."""
SHUTDOWN_TIMEOUT = 3600
"""Seconds that processes with nothing left to do wait for the first, which writes the report."""


def join(preemptible: bool) -> None:
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
    compiled_programs.keep_none_of_several()
    barrier("joined")  # GPUs find each other at the first one, within ten minutes


def leave(status: int) -> NoReturn:
    """Ends this process at once: an orderly end would wait for others that may wait for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_primary() -> bool:
    """Whether this process writes files and prints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here, so that what one wrote the others can read."""
    multihost_utils.sync_global_devices(name)


def as_written(read: Callable[[], T]) -> T:
    """What the primary process has just written: behind a barrier, though a shared disk may show it
    to others half a minute later.

    Raises:
      UserError: `read` does, for a minute.
    """
    for _ in range(60 if jax.process_count() > 1 else 0):
        with suppress(UserError):
            return read()
        time.sleep(1)
    return read()


def primary_says(flag: bool) -> bool:
    """The flag of the primary process, on every process."""
    return bool(multihost_utils.broadcast_one_to_all(np.array(flag)))


def seconds_of(run: Callable[[], Any], seconds: float, fewest: int) -> list[float]:
    """Of each of at least so many runs, and until they add up; all processes run equally often.

    Each ends when what it returns is ready on the devices.
    """
    taken: list[float] = []
    while primary_says(sum(taken) < seconds or len(taken) < fewest):
        start = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - start)
    return taken


def versions() -> dict[str, str]:
    """Of everything that can change a number."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
    return {
        "invad_jax": __version__,
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
