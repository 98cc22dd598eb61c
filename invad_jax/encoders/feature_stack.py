"""Several stages of a network as one latent: resize to one grid, concatenate, pool.

Resizing is linear and separable, so it is two products with small matrices that are known when the
graph is built; on CPUs and TPUs that is far cheaper than gathering.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.errors import UserError


def stack_features(
    stages: Sequence[jax.Array], resize: Literal["bilinear", "area"], pool: int, groups: int = 0
) -> jax.Array:
    """Brings all stages to the grid of the last and coarsest one and concatenates them.

    Args:
      stages: (B, h_i, w_i, C_i) each, finest first.
      resize: `bilinear` as torch's `interpolate` does it without antialiasing, which reads few of
        the positions when shrinking; `area`, the mean over all that a cell covers.
      pool: side of the mean pooling at the end.
      groups: of consecutive stages, as many in each, whose mean takes their place; 0: none.

    Returns:
      (B, h / pool, w / pool, C), C the sum of the C_i, or of one of each group.

    Raises:
      UserError: `pool` does not divide the grid, or `groups` the stages, which need one width.

    >>> stack_features([jnp.ones((1, 8, 8, 2)), jnp.ones((1, 4, 4, 3))], "bilinear", 2).shape
    (1, 2, 2, 5)
    """
    _, h, w, _ = stages[-1].shape
    if h % pool or w % pool:
        raise UserError(f"encoder.pool={pool}: must divide the grid of the features, {h} x {w}")
    resized = [_resized(x, h, w, resize) for x in stages]
    means = _group_means(resized, groups) if groups else resized
    stacked = jnp.concatenate(means, axis=-1)  # (B, h, w, C)
    return _mean_pooled(stacked, pool)  # (B, h / pool, w / pool, C)


def _group_means(stages: Sequence[jax.Array], groups: int) -> list[jax.Array]:
    """The mean of each of `groups` runs of stages, all (B, h, w, C)."""
    widths = sorted({x.shape[-1] for x in stages})
    if len(stages) % groups or len(widths) > 1:
        raise UserError(
            f"encoder.groups={groups}: must divide the {len(stages)} stages, of one width; theirs: "
            f"{', '.join(map(str, widths))}"
        )
    size = len(stages) // groups
    return [sum(stages[i + 1 : i + size], stages[i]) / size for i in range(0, len(stages), size)]


def bilinear_matrix(source: int, target: int) -> np.ndarray:
    """(target, source) weights of linear interpolation between half-pixel centres.

    >>> bilinear_matrix(4, 2)
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]], dtype=float32)
    """
    centres = (np.arange(target) + 0.5) * source / target - 0.5  # in source positions
    distance = np.abs(np.clip(centres, 0, source - 1)[:, None] - np.arange(source))
    return np.maximum(1 - distance, 0).astype(np.float32)


def area_matrix(source: int, target: int) -> np.ndarray:
    """(target, source) shares that the source cells have in each target cell.

    >>> area_matrix(3, 2) * 3
    array([[2., 1., 0.],
           [0., 1., 2.]], dtype=float32)
    """
    edges = np.arange(target + 1)[:, None] * source / target  # (target + 1, 1), in source cells
    covered = np.clip(edges - np.arange(source), 0, 1)  # of each source cell, left of each edge
    return (np.diff(covered, axis=0) * target / source).astype(np.float32)


def _resized(x: jax.Array, h: int, w: int, resize: Literal["bilinear", "area"]) -> jax.Array:
    matrix = {"bilinear": bilinear_matrix, "area": area_matrix}[resize]
    _, H, W, _ = x.shape
    if x.shape[1:3] == (h, w):
        return x
    x = jnp.einsum("hH,BHWC->BhWC", matrix(H, h), x, precision="highest")  # (B, h, W, C)
    return jnp.einsum("wW,BhWC->BhwC", matrix(W, w), x, precision="highest")  # (B, h, w, C)


def _mean_pooled(x: jax.Array, side: int) -> jax.Array:
    B, h, w, C = x.shape
    cells = x.reshape(B, h // side, side, w // side, side, C)
    return cells.mean(axis=(2, 4))  # (B, h / side, w / side, C)
