"""How many images go through the networks at a time: on a CPU no more than its caches hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from invad_jax.config import Config
from invad_jax.coordinates import in_rounds
from invad_jax.paradigms import paradigm_of

EncodeFn = Callable[[Any, jax.Array], jax.Array]
"""(encoder variables, image (B, H, W, 3) uint8) -> latent (B, h, w, C) float32."""

IN_CACHES = 2**20
"""Values of a network's activations at one place, positions x width x images, that a CPU works on
at its best: fewer make small products, more go through memory (docs/performance.md)."""


def rounds_over(mesh: Mesh) -> int | None:
    """The devices of a mesh that take one image after the other: all if they are CPUs, else none.

    Accelerators take the whole batch. On a CPU the activations of one image stay in its caches
    (docs/performance.md), where those of two no longer do.
    """
    return mesh.size if mesh.devices.flat[0].platform == "cpu" else None


def at_once(config: Config, grid: tuple[int, ...], num_devices: int, platform: str) -> int:
    """The rows of a compiled call that scores: `eval.batch_size`, rounded up to the devices.

    CPUs take fewer images of a large network, a power of two each (docs/performance.md).

    Args:
      config: of evaluation.
      grid: positions of a latent, (h, w).
      num_devices: over which the rows of a batch are split.
      platform: theirs.
    """
    batch_size = -(-config.eval.batch_size // num_devices) * num_devices
    if platform != "cpu" or not paradigm_of(config).nfe:
        return batch_size
    positions = max(1, math.prod(grid) // config.denoiser.patch_size**2)
    images = max(1, IN_CACHES // (positions * config.denoiser.width))
    return min(batch_size, num_devices << (images.bit_length() - 1))


def in_parts(encode: EncodeFn, mesh: Mesh) -> EncodeFn:
    """The same function, laid out for the devices of a mesh.

    Args:
      encode: of each image by itself; pure.
      mesh: over which the rows of a batch are split.
    """

    def laid_out(variables: Any, image: jax.Array) -> jax.Array:
        return in_rounds(partial(encode, variables), rounds_over(mesh), image)

    return laid_out


def for_any_platform(encode: EncodeFn) -> EncodeFn:
    """The same for a function that is exported, for one device, of a batch of unknown size."""

    def one_by_one(variables: Any, image: jax.Array) -> jax.Array:
        return jax.lax.map(lambda row: encode(variables, row[None])[0], image)

    def choose(variables: Any, image: jax.Array) -> jax.Array:
        latent: jax.Array = jax.lax.platform_dependent(
            variables, image, cpu=one_by_one, default=encode
        )
        return latent

    return choose
