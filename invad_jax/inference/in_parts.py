"""How many images go through an encoder at a time, inside of the compiled function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

EncodeFn = Callable[[Any, jax.Array], jax.Array]
"""(encoder variables, image (B, H, W, 3) uint8) -> latent (B, h, w, C) float32."""


def in_parts(encode: EncodeFn, mesh: Mesh) -> EncodeFn:
    """The same function, laid out for the devices of a mesh.

    Accelerators take the whole batch. A CPU takes one image after the other: activations then stay
    in its caches (docs/performance.md), where those of two images no longer do.

    Args:
      encode: of each image by itself; pure.
      mesh: over which the rows of a batch are split.
    """
    num_devices = mesh.size
    if mesh.devices.flat[0].platform != "cpu":
        return encode

    def one_by_one(variables: Any, image: jax.Array) -> jax.Array:
        B = image.shape[0]
        if B % num_devices or B // num_devices == 1:
            return encode(variables, image)
        # Rows that lie on one device stay there: each round takes one row of each.
        rounds = jnp.moveaxis(image.reshape(num_devices, -1, *image.shape[1:]), 1, 0)
        latent = jax.lax.map(partial(encode, variables), rounds)  # (rounds, devices, h, w, C)
        return jnp.moveaxis(latent, 1, 0).reshape(B, *latent.shape[2:])  # (B, h, w, C)

    return one_by_one


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
