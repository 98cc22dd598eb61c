"""What the devices can do, measured in the same run, and what they are."""

from __future__ import annotations

import datetime
import os
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from invad_jax.benchmarks.clock import Run
from invad_jax.runtime import processes
from invad_jax.runtime.sharding import batch_sharding

SIDE = {"cpu": 1536}
"""Of the square matrices, by platform; 8192 elsewhere: large enough for the highest rate."""
STREAMED = {"cpu": 2**26}
"""Numbers that are read and written for the bandwidth; 2^28 elsewhere: no cache holds them."""


def describe() -> dict[str, Any]:
    """Devices, processor, load, versions and the day."""
    return {
        "device": processes.device_summary(),
        "processor": _processor(),
        "cores": cores(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": processes.versions(),
        "date": datetime.date.today().isoformat(),
    }


def cores() -> int:
    """That this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_host_bytes() -> int:
    """The most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def host_bytes() -> int:
    """The memory that this process has now, where the system says; else the most it has had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_host_bytes()
    return pages * resource.getpagesize()


def device_bytes() -> int | None:
    """The most memory that the first device has had, where it says so."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


def rate_runs(mesh: Mesh, dtype: str) -> tuple[dict[str, Run], dict[str, float]]:
    """What measures the devices: runs, and the operations or bytes of each.

    `matrix_product` multiplies square matrices of `dtype`, summed in float32 where it is narrower;
    `stream` adds 1 to a large array, in place. Every device of the mesh does so at once.
    """
    platform, devices = mesh.devices.flat[0].platform, mesh.size
    side, length = SIDE.get(platform, 8192), STREAMED.get(platform, 2**28)
    spread = batch_sharding(mesh)
    ones = jax.jit(jnp.ones, static_argnums=(0, 1), out_shardings=spread)  # never whole on one
    matrix, array = ones((devices, side, side), dtype), ones((devices, length), "float32")
    precision = "highest" if dtype == "float32" else None  # as detectors are: `assembly.exact`
    multiply = partial(jnp.einsum, "dij,djk->dik", precision=precision)
    product = jax.jit(lambda a: multiply(a, a), out_shardings=spread)
    add = jax.jit(lambda a: a + 1.0, out_shardings=spread, donate_argnums=0)

    def stream() -> None:
        nonlocal array
        array = jax.block_until_ready(add(array))  # in its place: pages are not asked for anew

    runs: dict[str, Run] = {
        "matrix_product": lambda: jax.block_until_ready(product(matrix)),
        "stream": stream,
    }
    return runs, {"matrix_product": 2.0 * devices * side**3, "stream": 8.0 * devices * length}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), ""
    )
