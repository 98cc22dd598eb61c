"""What of a square image takes part: all of it, or what a letterbox and a region leave.

A position that takes no part is NaN, in latents, states and maps: what forgets it is no number
either, and is seen. With no letterbox and no region nothing here runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def filled(image: jax.Array) -> jax.Array:
    """Rows and columns that images fill, from the top left: (B, S, S, 3 or 4) -> (B, 2) int32.

    The fourth channel is above 0 where an image lies; without one it fills the square.
    """
    if image.shape[-1] == 3:
        return jnp.full((image.shape[0], 2), image.shape[1], jnp.int32)
    inside = image[..., 3] > 0
    sides = [jnp.sum(jnp.any(inside, axis=axis), axis=1) for axis in (2, 1)]
    return jnp.stack(sides, axis=1).astype(jnp.int32)


def taking_part(image: jax.Array, region: np.ndarray | None, grid: tuple[int, int]) -> jax.Array:
    """Positions whose cells the image reaches and whose centres lie in its region, (B, h, w) bool.

    Args:
      image: (B, S, S, 3 or 4) uint8.
      region: (R, R) bool over the whole image in whatever proportions; None: all of it.
      grid: (h, w).
    """
    side, reached, at = image.shape[1], [], []
    for count, fills in zip(grid, jnp.moveaxis(filled(image), 1, 0), strict=True):
        begin = jnp.arange(count) * (side / count)  # pixels
        reached.append(begin[None, :] < fills[:, None])  # (B, h) or (B, w)
        if region is not None:
            share = (begin + 0.5 * side / count)[None, :] / fills[:, None]  # of the image
            at.append(jnp.minimum((share * len(region)).astype(jnp.int32), len(region) - 1))
    inside = reached[0][:, :, None] & reached[1][:, None, :]
    if region is None:
        return inside
    return inside & jnp.asarray(region)[at[0][:, :, None], at[1][:, None, :]]


def encode_in_part(
    encode: Callable[[Any, jax.Array], jax.Array], region: np.ndarray | None
) -> Callable[[Any, jax.Array], jax.Array]:
    """An encoder that says NaN where an image takes no part.

    Args:
      encode: (variables, image (B, S, S, 3)) -> latent (B, h, w, C).
      region: as in `taking_part`.

    Returns:
      The same for (B, S, S, 3 or 4).
    """

    def apply(variables: Any, image: jax.Array) -> jax.Array:
        latent = encode(variables, image[..., :3])
        if region is None and image.shape[-1] == 3:
            return latent
        _, h, w, _ = latent.shape
        part = taking_part(image, region, (h, w))
        return jnp.where(part[..., None], latent, jnp.nan)

    return apply


def without_nan(latent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(..., h, w, C) with zeros where a position takes no part, and (..., h, w, 1) bool where one
    does."""
    part = jnp.isfinite(latent[..., :1])
    return jnp.where(part, latent, 0.0), part


def in_part(
    states: Callable[[Any, jax.Array], jax.Array],
) -> Callable[[Any, jax.Array], jax.Array]:
    """`StatesFn` of latents of which parts are NaN: the network sees zeros there."""

    def apply(network: Any, x0: jax.Array) -> jax.Array:
        x0, part = without_nan(x0)
        return jnp.where(part[:, None], states(network, x0), jnp.nan)

    return apply
