"""One image file -> one uint8 square.

A path may also be that of a file in a prepared data set (`records.py`).

Read next: `pipeline.py`, which turns many of these into batches.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from invad_jax.config import DataConfig
from invad_jax.data import depth
from invad_jax.data.opening import opened, upright
from invad_jax.errors import UserError

_LYING = (5, 6, 7, 8)
"""EXIF orientations that turn an image by a quarter."""


def read_image(path: str | Path, data: DataConfig) -> np.ndarray:
    """Reads a whole image, upright, as RGB, resized bilinearly to a square (no crop).

    With `data.aspect=letterbox` the image keeps its proportions and lies at the top left; its last
    row and column are repeated below and beside it, and a fourth channel is 255 where it lies.

    Any mode that PIL reads: grey and palette images become RGB, transparency is dropped, and deeper
    pixels are brought to 8 bits by `data.value_range` (`depth.py`).

    Args:
      path: of the file.
      data: its `image_size` S is the side of the square, pixels.

    Returns:
      (S, S, 3) uint8, or (S, S, 4) of a letterbox.

    Raises:
      UserError: missing, damaged, not an image, or too large.
    """
    with opened(path, "image", data.max_pixels) as image:
        return to_square(image, path, data)


def why_unreadable(path: str | Path, data: DataConfig) -> str:
    """Why `read_image` would not give an image; empty where it does."""
    try:
        read_image(path, data)
    except UserError as error:
        return str(error)
    return ""


def to_square(image: Image.Image, path: str | Path, data: DataConfig) -> np.ndarray:
    """An opened image as `read_image` gives it."""
    rgb = _to_rgb(image, path, data)
    rows, columns = extent(rgb.size, data)
    pixels = np.asarray(rgb.resize((columns, rows), Image.Resampling.BILINEAR))
    if data.aspect == "stretch":
        return pixels
    around = ((0, data.image_size - rows), (0, data.image_size - columns), (0, 0))
    inside = np.pad(np.full((rows, columns, 1), 255, np.uint8), around)
    return np.concatenate([np.pad(pixels, around, mode="edge"), inside], axis=-1)


def extent(size: tuple[int, int], data: DataConfig) -> tuple[int, int]:
    """Rows and columns of the square that an image of (width, height) pixels fills.

    >>> extent((565, 230), DataConfig(image_size=256, aspect="letterbox"))
    (104, 256)
    """
    if data.aspect == "stretch":
        return data.image_size, data.image_size
    width, height = (max(1, round(side * data.image_size / max(size))) for side in size)
    return height, width


def blank(count: int, data: DataConfig) -> np.ndarray:
    """(count, S, S, 3 or 4) uint8: as many black images as `read_image` gives them."""
    channels = 3 if data.aspect == "stretch" else 4
    images = np.zeros((count, data.image_size, data.image_size, channels), np.uint8)
    images[..., 3:] = 255
    return images


def read_original(
    path: str | Path, data: DataConfig, longest_side: int | None = None
) -> np.ndarray:
    """As `original`, (H, W, 3) uint8."""
    return np.asarray(original(path, data, longest_side))


def original(path: str | Path, data: DataConfig, longest_side: int | None = None) -> Image.Image:
    """Reads a whole image as `read_image` does, but in its own proportions.

    Args:
      path: of the file.
      data: how it is read.
      longest_side: a larger image is reduced to it, pixels; None: at its own size.

    Raises:
      UserError: as `read_image`.
    """
    with opened(path, "image", data.max_pixels) as image:
        side = (longest_side or max(image.size),) * 2
        if image.mode in ("RGB", "L") and not depth.is_deep(image):
            image.thumbnail(side)  # first: a JPEG is then decoded at a fraction of its size
        rgb = _to_rgb(image, path, data)
        rgb.thumbnail(side)
        return rgb


def size_of(path: str | Path, data: DataConfig) -> tuple[int, int]:
    """(width, height) of an upright image, pixels; it is not decoded.

    Raises:
      UserError: as `read_image`.
    """
    with opened(path, "image", data.max_pixels) as image:
        width, height = image.size
        if isinstance(image, TiffImageFile):  # some releases of PIL give its size as turned
            width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _LYING
        return (height, width) if turned else (width, height)


def _to_rgb(image: Image.Image, path: str | Path, data: DataConfig) -> Image.Image:
    if depth.is_deep(image):
        return Image.fromarray(depth.to_8_bit(image, path, data)).convert("RGB")
    image = upright(image)
    if "transparency" in image.info:  # PIL warns when it is dropped in one step
        image = image.convert("RGBA")
    return image.convert("RGB")
