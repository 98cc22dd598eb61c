"""Images that a program hands over: paths, PIL images and arrays, as what a file would give.

What an array's numbers mean is never guessed from the numbers: 8 bits are what they are, deeper
ones are scaled by `data.value_range` as those of a file, and what has no scale is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from invad_jax.config import DataConfig
from invad_jax.data import depth, inputs, preprocess
from invad_jax.errors import UserError

_CHANNELS = (1, 3, 4)
"""Grey; RGB; RGB and transparency, which is dropped."""


class Given(NamedTuple):
    """One image, not read yet."""

    path: str | None
    """Of a file; None for an image in memory."""
    content: Any
    """A path, a PIL image, or an array (H, W) or (H, W, C)."""
    name: str
    """For messages."""


def each(images: Any) -> Iterator[Given]:
    """Every image of what was handed over, in order, one at a time.

    Args:
      images: a path (of a folder: all its images), a PIL image, an array of one image (H, W),
        (H, W, C) or of several (B, H, W, C), C = 1, 3, 4; or an iterable of these.

    Raises:
      UserError: of something else.
    """
    if _is_one(images):
        yield from _of_one(images, "images")
    elif isinstance(images, Iterable) and not isinstance(images, (bytes, bytearray, Mapping)):
        for i, image in enumerate(images):
            if not _is_one(image):
                raise _no_image(image, f"images[{i}]")
            yield from _of_one(image, f"images[{i}]")
    else:
        raise _no_image(images, "images")


def read(given: Given, data: DataConfig) -> np.ndarray:
    """The image as `preprocess.read_image` gives that of a file.

    Args:
      given: one image.
      data: of the training: the size S, and what is black and white in deep images.

    Raises:
      UserError: it cannot be read, or is of a type whose meaning is not known.
    """
    if given.path is not None:
        return preprocess.read_image(given.path, data)
    if not isinstance(given.content, Image.Image):
        pixels = _to_pil(given.content, given.name, data)
        return preprocess.to_square(pixels, given.name, data)
    if not given.content.width or not given.content.height:
        raise UserError(f"{given.name}: an image without pixels")
    if not getattr(given.content, "tile", None):
        if depth.is_misread(given.content):
            raise UserError(f"{given.name}: PIL does not keep what its numbers mean; give the path")
    elif depth.is_deep(given.content):  # not decoded yet
        # What its numbers mean, PIL keeps with the file alone.
        file = getattr(given.content, "filename", "")
        if file and os.path.isfile(file) and given.content.tell() == 0:
            return preprocess.read_image(os.fsdecode(file), data)
        if depth.has_channels(given.content):
            raise UserError(f"{given.name}: colours of 16 bits: PIL keeps 8; give the path")
    try:
        decoded = ImageOps.exif_transpose(given.content)  # a copy: the other's stays as it is
        return preprocess.to_square(decoded, given.name, data)
    except UserError:
        raise
    except Exception as error:  # an image may be decoded only now; PIL's decoders raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{given.name}: cannot be read: {reason}") from error


def _is_one(value: Any) -> bool:
    if isinstance(value, (str, os.PathLike, Image.Image)):
        return True
    its_paths = getattr(getattr(value, "dtype", None), "kind", "") in ("O", "U")  # NumPy, pandas
    return hasattr(value, "__array__") and not (its_paths and np.ndim(value) == 1)


def _of_one(value: Any, name: str) -> Iterator[Given]:
    if isinstance(value, Image.Image):
        yield Given(None, value, name)
    elif isinstance(value, (str, os.PathLike)):
        found = inputs.find([os.fsdecode(value)], name)
        for row, path in enumerate(found.paths):
            if row in found.unusable:
                raise UserError(f"{path}: {found.unusable[row]}")
            yield Given(path, path, path)
    else:
        array = np.asarray(value)
        if array.ndim == 4:
            yield from (Given(None, row, f"{name}[{i}]") for i, row in enumerate(array))
        else:
            yield Given(None, array, name)


def _to_pil(array: np.ndarray, name: str, data: DataConfig) -> Image.Image:
    """(H, W) or (H, W, C) as an image of 8 bits."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in _CHANNELS or not array.size:
        hint = "; channels come last" if array.ndim == 3 and array.shape[0] in _CHANNELS else ""
        raise UserError(
            f"{name}: an array of shape {array.shape}: expected (H, W), (H, W, C) or (B, H, W, C) "
            f"with C = 1, 3 or 4{hint}"
        )
    if array.dtype == np.uint16 or (
        data.value_range and array.dtype.kind in "iuf" and array.dtype != np.uint8
    ):
        array = depth.scaled(array[:, :, :3], data.value_range or depth.SIXTEEN_BITS)
    if array.dtype != np.uint8:
        raise UserError(
            f"{name}: numbers of type {array.dtype}, which do not say what white is; give uint8 "
            "(0 to 255) or uint16 (0 to 65535), or train with data.value_range=BLACK,WHITE"
        )
    pixels = np.ascontiguousarray(array[:, :, :3])  # transparency is dropped
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _no_image(value: Any, name: str) -> UserError:
    return UserError(
        f"{name}: {type(value).__name__}: expected a path, a PIL image or an array of pixels"
    )
