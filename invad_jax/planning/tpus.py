"""TPU chips: what a plan divides by. Read next: `plan.py`."""

from __future__ import annotations

from typing import NamedTuple


class Chip(NamedTuple):
    """One chip, which is one JAX device here."""

    memory: float
    """Bytes of HBM."""
    peak_flops: float
    """A second, bfloat16 products summed in float32."""
    memory_bandwidth: float
    """Bytes a second."""
    link_bandwidth: float
    """Bytes a second that leave the chip over all of its links; as many come in."""
    source: str
    topology_options: dict[str, str]
    """For `jax.experimental.topologies`: megacore makes one device of a chip's two cores."""


_DOCS = "https://docs.cloud.google.com/tpu/docs/"
GIB = 2.0**30

CHIPS = {
    "v4": Chip(
        32 * GIB,
        275e12,
        1200e9,
        300e9,
        f"{_DOCS}v4; links: arXiv 2304.01433, table 4",
        {"chip_config_name": "megacore"},
    ),
    "v5e": Chip(16 * GIB, 197e12, 819e9, 200e9, f"{_DOCS}v5e", {}),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9, f"{_DOCS}v5p", {"chip_config_name": "megacore"}),
    "v6e": Chip(32 * GIB, 918e12, 1638e9, 400e9, f"{_DOCS}v6e", {}),
}
"""By the name before the colon of a topology, such as v5e:4x4. Read on 2026-11-24."""
