"""What the denoisers share: timestep and position embeddings, adaLN modulation, stacked blocks.

Read next: `dit.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

MAX_PERIOD = 10_000.0
"""Longest wavelength over 2 pi, in timesteps or positions (Vaswani et al. 2017)."""


def timestep_sinusoids(t: jax.Array, dim: int, frequency_shift: int = 0) -> jax.Array:
    """Cosines, then sines of t * MAX_PERIOD^(-i / (dim / 2 - shift)), i = 0 .. dim / 2 - 1.

    Args:
      t: (B,), integer or float timesteps.
      dim: even number of sinusoids.
      frequency_shift: 1 lets the lowest frequency be 1 / MAX_PERIOD, as in Ho et al. (2020).

    Returns:
      (B, dim) float32.
    """
    half = dim // 2
    # float32 in this order, as published: t multiplies whatever a frequency is off by.
    index = np.arange(half, dtype=np.float32)
    span = np.float32(half - frequency_shift)
    frequencies = np.exp(np.float32(-math.log(MAX_PERIOD)) * index / span)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]  # (B, dim / 2)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)  # (B, dim)


def position_sinusoids(height: int, width: int, dim: int) -> np.ndarray:
    """Fixed 2-D position embedding (He et al. 2022): half the dimensions for the column, half for
    the row, each sines, then cosines.

    Args:
      height: rows of the grid.
      width: columns of the grid.
      dim: a multiple of 4.

    Returns:
      (1, height * width, dim) float32, positions in row-major order.
    """
    frequencies = MAX_PERIOD ** -(np.arange(dim // 4) / (dim / 4))
    rows, columns = np.divmod(np.arange(height * width), width)
    angles = [axis[:, None] * frequencies[None, :] for axis in (columns, rows)]  # (N, dim / 4) each
    parts = [f(angle) for angle in angles for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=-1)[None].astype(np.float32)  # (1, N, dim)


class TimestepEmbedding(nn.Module):
    """Two-layer perceptron over the sinusoids of t."""

    num_sinusoids: int
    features: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype
    frequency_shift: int = 0

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        """(B,) -> (B, features)."""
        settings: dict[str, Any] = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        h = timestep_sinusoids(t, self.num_sinusoids, self.frequency_shift)  # (B, num_sinusoids)
        h = nn.silu(nn.Dense(self.features, **settings, name="hidden")(h))  # (B, features)
        return nn.Dense(self.features, **settings, name="out")(h)


class Modulation(nn.Module):
    """adaLN: `count` vectors (shift, scale, gate, ...) from the condition, all zero at first."""

    count: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, cond: jax.Array) -> list[jax.Array]:
        """(B, D) -> `count` times (B, 1, D), which broadcasts over tokens (and over a batch if
        B is 1)."""
        features = self.count * cond.shape[-1]
        vectors = nn.Dense(
            features, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="dense"
        )(nn.silu(cond))  # (B, count * D)
        return jnp.split(vectors[:, None, :], self.count, axis=-1)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """x (B, N, D) scaled and shifted by (B or 1, 1, D)."""
    return x * (1.0 + scale) + shift


def layer_norm(affine: bool, name: str | None = None, epsilon: float = 1e-6) -> nn.LayerNorm:
    """LayerNorm in float32 with the variance of torch (two passes)."""
    return nn.LayerNorm(
        epsilon=epsilon, use_scale=affine, use_bias=affine,
        dtype=jnp.float32, use_fast_variance=False, name=name,
    )  # fmt: skip


def stacked(block: type[nn.Module], depth: int, remat: bool) -> Callable[..., nn.Module]:
    """`depth` blocks as one `scan`, which compiles one of them; parameters have a leading axis.

    Args:
      block: maps (x, cond) to (x, None).
      depth: number of blocks.
      remat: recompute each block in the backward pass.
    """
    if remat:
        block = nn.remat(block, prevent_cse=False)  # inside a scan nothing can be merged anyway
    return nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True},
        in_axes=nn.broadcast, length=depth,
    )  # fmt: skip
