"""Memory that a training frees stays with its process, as the next step asks for it again.

A step on a CPU takes hundreds of megabytes and frees them. The GNU C library gives blocks of that
size back to the system, which then hands out each page anew, in a quarter of the step's time
(docs/performance.md). Read next: `compiled_programs.py`, the other thing that is set before JAX is
imported.
"""

from __future__ import annotations

import ctypes
import os
import sys
from glob import glob

SETTINGS = {-8: 1, -4: 0, -1: 2**31 - 1}
"""Of `mallopt`: M_ARENA_MAX, one heap for all threads; M_MMAP_MAX, no block outside of it;
M_TRIM_THRESHOLD, its end is given back when 2 GB of it are free."""
OF_THE_USER = (
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TRIM_THRESHOLD_",
)
"""Variables by which somebody has decided."""
ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg", "/dev/accel*", "/dev/vfio/[0-9]*")
"""Device files of GPUs (NVIDIA, AMD, Windows's) and of TPUs."""


def keep_freed() -> None:
    """Lets the process keep what it frees, from now on.

    Without effect where JAX is imported, whose threads have heaps by then, where the user has
    decided, where an accelerator trains, and with other C libraries.
    """
    decided = "jax" in sys.modules or any(name in os.environ for name in OF_THE_USER)
    if decided or not _on_cpu():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return
    for parameter, value in SETTINGS.items():
        mallopt(parameter, value)


def _on_cpu() -> bool:
    """Whether JAX will compute there: as it is told, or for want of another device."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms.split(",")[0] == "cpu"
    return not any(map(glob, ACCELERATORS))
