"""Maps as large as the images, made of those on the grid of the latents when they are looked at."""

from __future__ import annotations

import numpy as np


def enlarge(latent_norm: np.ndarray, image_size: int) -> np.ndarray:
    """`scoring.upsample` in NumPy: bilinear, half-pixel centres.

    Args:
      latent_norm: (N, h, w) float32.
      image_size: side S of the maps.

    Returns:
      (N, S, S) float32.
    """
    _, h, w = latent_norm.shape
    if (h, w) == (image_size, image_size):
        return latent_norm
    rows, columns = _weights(h, image_size), _weights(w, image_size)
    return rows @ np.asarray(latent_norm, np.float32) @ columns.T


def _weights(source: int, target: int) -> np.ndarray:
    """(target, source) float32, two in each row."""
    centres = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    return np.maximum(1 - np.abs(centres[:, None] - np.arange(source)), 0).astype(np.float32)
