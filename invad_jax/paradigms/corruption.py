"""Cells of a latent that are spoilt, and what they are spoilt by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.errors import UserError


def kept_cells(
    rng: jax.Array, ratio: jax.Array, grid: tuple[int, int], sides: tuple[int, int]
) -> jax.Array:
    """A mask of cells, 1 where a cell is kept: int(n (1 - ratio)) of the n cells of each image.

    Args:
      rng: key.
      ratio: (B,) float32 in 0..1, the share that is spoilt at least.
      grid: h and w.
      sides: of a cell, dividing them.

    Returns:
      (B, h, w, 1) float32.
    """
    rows, columns = (n // side for n, side in zip(grid, sides, strict=True))
    scores = jax.random.uniform(rng, (len(ratio), rows * columns))
    rank = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
    count = jnp.floor(rows * columns * (1.0 - ratio)).astype(jnp.int32)
    kept = (rank < count[:, None]).astype(jnp.float32).reshape(-1, rows, columns, 1)
    return jnp.repeat(jnp.repeat(kept, sides[0], axis=1), sides[1], axis=2)  # (B, h, w, 1)


def shuffled_patches(latent: jax.Array, permutation: jax.Array, side: int) -> jax.Array:
    """The patches of a whole batch in another order: image by image, each in row-major order.

    Args:
      latent: (B, h, w, C).
      permutation: of the B (h / side) (w / side) patches; the k-th becomes the permutation[k]-th.
      side: of a patch.
    """
    B, h, w, C = latent.shape
    rows, columns = h // side, w // side
    patches = latent.reshape(B, rows, side, columns, side, C).swapaxes(2, 3)
    patches = patches.reshape(B * rows * columns, side, side, C)[permutation]
    whole = patches.reshape(B, rows, columns, side, side, C).swapaxes(2, 3)
    return whole.reshape(B, h, w, C)


def possible_sides(shares: Mapping[int, float], grid: Sequence[int]) -> dict[int, float]:
    """Sides of cells that divide a grid into two at least, and their probabilities.

    Raises:
      UserError: the grid is too small for any.

    >>> possible_sides({1: 0.3, 2: 0.2, 16: 0.1}, (16, 16))
    {1: 0.6, 2: 0.4}
    """
    fitting = {
        side: share
        for side, share in shares.items()
        if all(n % side == 0 and n >= 2 * side for n in grid)
    }
    if not fitting:
        raise UserError(f"latents of {' x '.join(map(str, grid))}: too few positions to spoil some")
    total = sum(fitting.values())
    return {side: float(np.round(share / total, 12)) for side, share in fitting.items()}


def by_chance(rng: jax.Array, shares: Mapping[Any, float], make: Callable[[Any], Any]) -> Any:
    """`make` of one of the keys of `shares`, whose values are their probabilities."""
    probabilities = jnp.asarray(list(shares.values()), jnp.float32)
    chosen = jax.random.choice(rng, len(shares), p=probabilities)
    branches = [lambda key=key: make(key) for key in shares]
    return jax.lax.switch(chosen, branches)


def smooth_noise(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Noise without detail, (B, h, w, 1): normal at every fourth position, bilinear in between."""
    B, h, w = shape
    coarse = jax.random.normal(rng, (B, max(2, h // 4), max(2, w // 4), 1))
    return jax.image.resize(coarse, (B, h, w, 1), "bilinear")


def highest(x: jax.Array, share: jax.Array) -> jax.Array:
    """1 at the highest positions of x (B, h, w, 1), the share (B,) of each image; 0 elsewhere."""
    flat = x.reshape(len(x), -1)
    rank = jnp.argsort(jnp.argsort(-flat, axis=1), axis=1)
    return (rank < (share * flat.shape[1])[:, None]).astype(jnp.float32).reshape(x.shape)


def foreign_patches(rng: jax.Array, latent: jax.Array) -> jax.Array:
    """Latents (B, h, w, C) made of patches of a whole batch, with another contrast a channel."""
    of_order, of_scale, of_shift = jax.random.split(rng, 3)
    B, h, w, C = latent.shape
    side = 2 if h % 2 == 0 and w % 2 == 0 else 1
    order = jax.random.permutation(of_order, B * (h // side) * (w // side))
    mixed = shuffled_patches(latent, order, side)
    mean = jnp.mean(mixed, axis=(1, 2), keepdims=True)
    spread = jnp.std(mixed, axis=(1, 2), keepdims=True)
    scale = jax.random.uniform(of_scale, (B, 1, 1, C), minval=0.5, maxval=1.5)
    shift = 0.5 * jax.random.normal(of_shift, (B, 1, 1, C))
    return mean + scale * (mixed - mean) + shift * spread
