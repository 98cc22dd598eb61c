"""How many images go through an encoder at a time, inside of the compiled function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from invad_jax.coordinates import in_rounds

EncodeFn = Callable[[Any, jax.Array], jax.Array]
"""(encoder variables, image (B, H, W, 3) uint8) -> latent (B, h, w, C) float32."""


def rounds_over(mesh: Mesh) -> int | None:
    """The devices of a mesh that take one image after the other: all if they are CPUs, else none.

    Accelerators take the whole batch. On a CPU the activations of one image stay in its caches
    (docs/performance.md), where those of two no longer do.
    """
    return mesh.size if mesh.devices.flat[0].platform == "cpu" else None


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
