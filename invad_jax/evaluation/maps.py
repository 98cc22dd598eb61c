"""Maps as large as the images, made of those on the grid of the latents when they are looked at."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from invad_jax.scoring import upsample

AT_A_TIME = 16
"""Maps; one size is compiled for."""


def enlarge(latent_norm: np.ndarray, image_size: int) -> np.ndarray:
    """`scoring.upsample` of any number of grids: (N, h, w) float32 -> (N, S, S) float32."""
    count, size = len(latent_norm), (image_size, image_size)
    if latent_norm.shape[1:] == size:
        return latent_norm
    maps = np.empty((count, *size), np.float32)
    for start in range(0, count, AT_A_TIME):
        rows = latent_norm[start : start + AT_A_TIME]
        padded = np.pad(rows, [(0, AT_A_TIME - len(rows)), (0, 0), (0, 0)])
        maps[start : start + len(rows)] = _enlarged(padded, image_size)[: len(rows)]
    return maps


@partial(jax.jit, static_argnums=1)
def _enlarged(latent_norm: jax.Array, image_size: int) -> jax.Array:
    return upsample(latent_norm, image_size)
