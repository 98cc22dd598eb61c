"""One image file -> one uint8 square.

A path may also be that of a file in a prepared data set (`records.py`).

Read next: `pipeline.py`, which turns many of these into batches.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from invad_jax.config import DataConfig
from invad_jax.data import depth
from invad_jax.data.dataset import report_left_out
from invad_jax.data.folders import all_files
from invad_jax.data.opening import opened, upright


def image_paths(folder: str | Path, recursive: bool = False) -> list[str]:
    """Image files in a folder, sorted by path; what is hidden is left out, links are followed.

    Files that are called like images and cannot be read are counted and named in the log.

    Args:
      folder: an existing folder.
      recursive: also those in its subfolders.
    """
    files, left_out = all_files(Path(folder))
    report_left_out(left_out)
    return [file.path for file in files if recursive or not file.folders]


def read_image(path: str | Path, data: DataConfig) -> np.ndarray:
    """Reads a whole image, upright, as RGB, resized bilinearly to a square (no crop).

    Any mode that PIL reads: grey and palette images become RGB, transparency is dropped, and deeper
    pixels are brought to 8 bits by `data.value_range` (`depth.py`).

    Args:
      path: of the file.
      data: its `image_size` S is the side of the square, pixels.

    Returns:
      (S, S, 3) uint8.

    Raises:
      UserError: missing, damaged, not an image, or too large.
    """
    with opened(path, "image", data.max_pixels) as image:
        size = (data.image_size, data.image_size)
        return np.asarray(_to_rgb(image, path, data).resize(size, Image.Resampling.BILINEAR))


def read_original(path: str | Path, data: DataConfig) -> np.ndarray:
    """Reads a whole image as `read_image` does, at its own size: (H, W, 3) uint8."""
    with opened(path, "image", data.max_pixels) as image:
        return np.asarray(_to_rgb(image, path, data))


def _to_rgb(image: Image.Image, path: str | Path, data: DataConfig) -> Image.Image:
    if depth.is_deep(image):
        return Image.fromarray(depth.to_8_bit(image, path, data)).convert("RGB")
    image = upright(image)
    if "transparency" in image.info:  # PIL warns when it is dropped in one step
        image = image.convert("RGBA")
    return image.convert("RGB")
