"""Large images through an encoder in overlapping tiles, whose latents become one grid.

Each tile is seen as an image of its size. Where tiles overlap, their latents are averaged with
weights that fall smoothly to the edge of a tile and add up to 1 at every position. What comes out
is the latent of the whole image: whatever follows knows positions of it, and nothing of tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import TilingConfig
from invad_jax.errors import UserError

Apply = Callable[[Any, jax.Array], jax.Array]
"""(variables, image (B, S, S, 3)) -> latent (B, h, w, C)."""


def tiled(encode: Apply, tiling: TilingConfig, image_size: int, grid: int) -> Apply:
    """The encoder of a large image, made of that of a tile.

    Args:
      encode: (variables, tile (B, T, T, 3)) -> (B, t, t, C) float32.
      tiling: T and the overlap, pixels.
      image_size: S of the image, pixels.
      grid: t, positions a side of a tile.

    Returns:
      (variables, image (B, S, S, 3)) -> (B, s, s, C) float32, of S / s = T / t pixels a position.

    Raises:
      UserError: tiles would not lie on the grid.
    """
    T, step = tiling.size, tiling.size // grid
    for name, side in (
        ("tiling.size", T),
        ("tiling.overlap", tiling.overlap),
        ("data.image_size", image_size),
    ):
        if side % step or T % grid:
            raise UserError(
                f"{name}={side}: must be a multiple of {T / grid:g} whole pixels, as a tile of "
                f"{T} pixels has {grid} positions a side"
            )
    first = starts(image_size // step, grid, tiling.overlap // step)
    weight = jnp.asarray(blend(first, grid, tiling.overlap // step, image_size // step))
    corners = np.stack(np.meshgrid(first, first, indexing="ij"), -1).reshape(-1, 2) * step

    def apply(variables: Any, image: jax.Array) -> jax.Array:
        def of_tile(corner: jax.Array) -> jax.Array:
            rows = jax.lax.dynamic_slice_in_dim(image, corner[0], T, axis=1)
            return encode(variables, jax.lax.dynamic_slice_in_dim(rows, corner[1], T, axis=2))

        latent = jax.lax.map(of_tile, jnp.asarray(corners, jnp.int32))  # (n n, B, t, t, C)
        latent = jnp.reshape(latent, (len(first), len(first), *latent.shape[1:]))
        return jnp.einsum("iyu,jxv,ijbuvc->byxc", weight, weight, latent, precision="highest")

    return apply


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side; the last one ends with it, and overlaps more if need be.

    >>> starts(10, 4, 1), starts(4, 4, 1)
    ([0, 3, 6], [0])
    >>> starts(11, 4, 1)
    [0, 3, 6, 7]
    """
    return [*range(0, length - tile, tile - overlap), length - tile]


def blend(first: list[int], tile: int, overlap: int, length: int) -> np.ndarray:
    """Weights of the positions of n tiles, (n, length, tile) float32, 1 in all at each position.

    Args:
      first: n starts, positions.
      tile: positions.
      overlap: positions in which a weight rises, as a squared sine, from the edge of a tile.
      length: positions of the whole side.
    """
    edge = np.minimum(np.arange(tile) + 0.5, tile - np.arange(tile) - 0.5)
    window = np.sin(np.pi / 2 * np.minimum(edge / overlap, 1)) ** 2 if overlap else np.ones(tile)
    weight = np.zeros((len(first), length, tile))
    for i, start in enumerate(first):
        weight[i, start + np.arange(tile), np.arange(tile)] = window
    return (weight / weight.sum(axis=(0, 2))[:, None]).astype(np.float32)
