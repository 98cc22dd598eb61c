"""Compiled programs kept on disk, so that the second start of a command compiles nothing.

JAX keeps them, in a folder of the cache for each release of jax and jaxlib and each kind of CPU: a
program is machine code, and what runs on one machine may be no code on another that shares a home.
Whoever may write there decides what is run here, so the folder is the user's own, of mode 700.

Beyond `MAX_BYTES`, or JAX_COMPILATION_CACHE_MAX_SIZE (-1: no limit), JAX throws away what was not
used for longest. JAX_COMPILATION_CACHE_DIR names another folder, which is taken as it is;
JAX_ENABLE_COMPILATION_CACHE=false turns all of this off, and so do GPUs of several processes
(`keep_none_of_several`). Imports no JAX, which reads the environment when it is imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from invad_jax.errors import UserError
from invad_jax.io.downloads import cache_dir, own_folder
from invad_jax.runtime.log import log

FOLDER = "JAX_COMPILATION_CACHE_DIR"
MAX_BYTES = 2**30
"""Of a folder: some hundred detectors on CPUs."""
KEEP_ALL = {
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(MAX_BYTES),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
"""Many small programs take as long to compile as a large one; and they are many."""


_is_ours = False
"""Whether the folder is one that `keep` has chosen."""


def keep() -> None:
    """Lets JAX keep what it compiles from now on, unless the user has said where.

    Called before JAX is imported; where it is imported already, its settings are somebody else's.
    """
    if "jax" in sys.modules or os.environ.get(FOLDER):
        return
    try:
        folder = cache_dir() / "compiled"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder = own_folder(folder) / key()
        folder.mkdir(mode=0o700, exist_ok=True)
    except (OSError, UserError) as problem:
        log.debug("compiled programs are not kept: %s", problem)  # a start is slower, no more
        return
    global _is_ours
    _is_ours = True
    os.environ[FOLDER] = str(folder.resolve())
    for name, value in KEEP_ALL.items():
        os.environ.setdefault(name, value)
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        # It warns, 3 kB a program that it finds, that no CPU has its own `prefer-no-gather`.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def keep_none_of_several() -> None:
    """Called once the processes of a job are joined, before anything is compiled.

    GPUs of several processes share the search for the fastest kernels, each its part: one that
    found its program on its own disk would leave those that did not waiting for that part. Where
    the user has named a folder, it is one that all of them see.
    """
    import jax

    if _is_ours and jax.process_count() > 1 and jax.default_backend() == "gpu":
        jax.config.update("jax_enable_compilation_cache", False)


def key() -> str:
    """Of the folder: releases, then a hash of what the CPU is and can do."""
    releases = [importlib.metadata.version(name) for name in ("jax", "jaxlib")]
    cpu = hashlib.sha256(_cpu().encode()).hexdigest()[:12]
    return "-".join([*releases, cpu])


def _cpu() -> str:
    """Model and features of the first CPU, as far as the system says."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:  # not Linux
        first = ""
    named = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU part")
    lines = [line for line in first.splitlines() if line.split("\t")[0].strip() in named]
    return "\n".join([platform.machine(), platform.processor(), *lines])
