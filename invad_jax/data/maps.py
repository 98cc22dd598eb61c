"""Maps as large as the images, made of those on the grid of the latents when they are looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def enlarge(latent_norm: np.ndarray, image_size: int) -> np.ndarray:
    """`scoring.upsample` in NumPy: bilinear, half-pixel centres; of a part, `upsample_part`.

    Args:
      latent_norm: (N, h, w) float32, NaN where a position takes no part.
      image_size: side S of the maps.

    Returns:
      (N, S, S) float32, NaN in the cells of these positions.
    """
    _, h, w = latent_norm.shape
    if (h, w) == (image_size, image_size):
        return latent_norm
    rows, columns = _weights(h, image_size), _weights(w, image_size)
    values, part = np.asarray(latent_norm, np.float32), np.isfinite(latent_norm)
    if part.all():
        return rows @ values @ columns.T
    enlarged = rows @ np.nan_to_num(values) @ columns.T
    weight = rows @ part.astype(np.float32) @ columns.T
    row, column = (np.arange(image_size) * side // image_size for side in (h, w))
    enlarged[~part[:, row][:, :, column]] = np.nan
    return enlarged / np.maximum(weight, np.finfo(np.float32).tiny)


def of_image(latent_norm: np.ndarray, image_size: int, extent: Sequence[int]) -> np.ndarray:
    """The map of one image in the proportions that it was resized to.

    Args:
      latent_norm: (h, w) float32.
      image_size: S.
      extent: rows and columns of the square that the image fills.

    Returns:
      (rows, columns) float32.
    """
    rows, columns = extent
    return enlarge(latent_norm[None], image_size)[0, :rows, :columns]


def _weights(source: int, target: int) -> np.ndarray:
    """(target, source) float32, two in each row."""
    centres = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    return np.maximum(1 - np.abs(centres[:, None] - np.arange(source)), 0).astype(np.float32)
