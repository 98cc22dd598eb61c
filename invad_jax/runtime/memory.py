"""What memory there is, and whether something needs more: said before it is taken."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import jax
from jax.sharding import Mesh

from invad_jax.config import Config
from invad_jax.errors import UserError

BYTES_A_PIXEL = 100
"""Of an image on its way through an encoder, at least: 24 to 96 channels of half the side, float32,
or tokens of a similar size."""
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def free_bytes() -> float:
    """Of one device of this process: an accelerator's own memory, or its share of the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return float(limit) if limit else host_bytes() / jax.local_device_count()


def host_bytes() -> float:
    """What the machine, or this container, has to give now."""
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
        available = int(found[1]) * 1024 if found else float("inf")
    except OSError:  # not Linux
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = float(_CGROUP.read_text())
    except (OSError, ValueError):  # no container, or "max"
        return float(available)
    return min(available, limit)


def require(what: str, parts: Mapping[str, float], advice: str) -> None:
    """Raises UserError if the parts are together more than a device has free.

    Args:
      what: needs them.
      parts: what for -> bytes on one device.
      advice: options that lower them.
    """
    need, free = sum(parts.values()), free_bytes()
    if need > free:
        listed = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in parts.items())
        raise UserError(
            f"{what} needs about {need / 1e9:.3g} GB on each device ({listed}), and "
            f"{free / 1e9:.3g} GB are free; lower {advice}"
        )


def require_for_images(config: Config, mesh: Mesh) -> None:
    """Raises UserError if a batch of images that goes through the encoder is too large."""
    batch, side = config.eval.batch_size, config.data.image_size
    seen = config.tiling.size or side
    rows = -(-batch // mesh.size)
    require(
        f"eval.batch_size={batch} with data.image_size={side}",
        {"images": rows * seen**2 * BYTES_A_PIXEL},
        "one of them",
    )
