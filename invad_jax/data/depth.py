"""Images deeper than 8 bits (12 or 16 bits, floats) -> 8 bits, on one scale for a whole data set.

What is black and what is white cannot be seen in one image, or brightness could no longer be
compared: the two values are `data.value_range`. Where they are not given, `train` takes them from
the training images, once, and keeps them in the workdir. Images of 8 bits are not touched.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from invad_jax.config import Config, DataConfig
from invad_jax.data.dataset import Sample
from invad_jax.data.opening import opened, upright
from invad_jax.errors import UserError

log = logging.getLogger(__name__)

_EIGHT_BITS_ALWAYS = (".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".dib", ".webp")
"""Files that need not be opened to know it."""

_MOST_DECODED = 100
"""Images that a range is taken from, evenly spread over all."""

_EXTREME = 1 / 1000
"""Share of an image's pixels left out at either end: dead and hot ones, highlights."""

SIXTEEN_BITS = (0.0, 65535.0)
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO, _SAMPLE_FORMAT, _UNSIGNED = 258, 262, 0, 339, 1  # TIFF


def is_deep(image: Image.Image) -> bool:
    """Whether the file, opened and not decoded, has more than 8 bits a channel."""
    return not has_channels(image) or ";16" in _raw_mode(image)


def has_channels(image: Image.Image) -> bool:
    """Whether a deep one has several: PIL's whole numbers and floats have one."""
    return image.mode[0] not in "IF"


def is_misread(image: Image.Image) -> bool:
    """Whether PIL, which has decoded it, takes its numbers for others than its tags say."""
    tags = getattr(image, "tag_v2", {})
    if image.mode[0] not in "IF":
        return False
    unsigned = set(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))) == {_UNSIGNED}
    wide = image.mode == "I" and tags.get(_BITS) == (32,) and unsigned
    return wide or tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def with_value_range(config: Config, train: Sequence[Sample]) -> Config:
    """The same with the range of the training images, if it is not given and some are deep.

    For whole numbers and floats from 0 on it is 0 to the smallest of 1, 3, 7, ..., 255, ..., 4095,
    ..., 65535, ... that none exceeds, which is what cameras count to. Where they would use less
    than a quarter of that, as a thermal camera's do, and where some are negative, it is their own
    range and a quarter of it more on either side, for what is colder or hotter than normal.

    Args:
      config: of a training.
      train: all its training images.

    Raises:
      UserError: an image cannot be read.
    """
    data = config.data
    deep = [] if data.value_range else [s.path for s in train if _is_deep_file(s.path, data)]
    if not deep:
        return config
    count = min(len(deep), _MOST_DECODED)
    bounds = [_bounds(deep[i * len(deep) // count], data) for i in range(count)]
    black, white = _range(min(low for low, _ in bounds), max(high for _, high in bounds))
    log.info(
        "%d training images are deeper than 8 bits: data.value_range=%.9g,%.9g",
        len(deep),
        black,
        white,
    )
    data = dataclasses.replace(data, value_range=(black, white))
    return dataclasses.replace(config, data=data)


def to_8_bit(image: Image.Image, path: str | Path, data: DataConfig) -> np.ndarray:
    """A deep image, upright, on the scale of the data set; (H, W) or (H, W, 3) uint8.

    What is not a number or not finite is black.

    Raises:
      UserError: no scale is known.
    """
    value_range = data.value_range or _range_of_type(image)
    if not value_range:
        raise UserError(
            f"{path}: its pixels are floats or 32-bit numbers, of which the training images had "
            "none; train with such images, or with data.value_range=BLACK,WHITE"
        )
    if not data.value_range:
        _warn_once(*value_range)
    return scaled(pixels(image, path, data), value_range)


def scaled(values: np.ndarray, value_range: Sequence[float]) -> np.ndarray:
    """Numbers on the scale from black to white: uint8 of the same shape; not finite is black."""
    low, high = value_range
    values = values.astype(np.float64)
    levels = (values.clip(low, high) - low) * (255 / (high - low))
    return np.rint(np.where(np.isfinite(values), levels, 0)).astype(np.uint8)


def pixels(image: Image.Image, path: str | Path, data: DataConfig) -> np.ndarray:
    """The pixels of a deep image, upright; (H, W) or (H, W, 3) of their own type."""
    raw_mode = _raw_mode(image)
    tags = getattr(image, "tag_v2", {})
    if has_channels(image):
        return _colours(image, raw_mode, path, data)
    white_is_zero = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    values = np.asarray(upright(image))
    if "I;32" in raw_mode and set(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))) == {_UNSIGNED}:
        values = values.view(np.uint32)  # PIL takes them for signed
    if white_is_zero:
        if image.mode[:4] != "I;16":
            raise UserError(f"{path}: a deep TIFF whose white is 0; save it with black as 0")
        values = 65535 - values
    return values


def _raw_mode(image: Image.Image) -> str:
    """How the pixels lie in the file, as PIL calls it; empty where it is not known."""
    tile = getattr(image, "tile", None)  # until it is decoded
    arguments = tile[0].args if tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _colours(image: Image.Image, raw_mode: str, path: str | Path, data: DataConfig) -> np.ndarray:
    """Colours of 16 bits, of which PIL keeps the upper byte: the lower one is decoded beside."""
    upper = np.asarray(upright(image))
    with opened(path, "image", data.max_pixels) as again:
        _set_raw_mode(again, _lower_bytes(raw_mode))
        lower = np.asarray(upright(again))
    if raw_mode.startswith("LA"):  # both bytes of the grey are in the second
        return lower[..., 0] * np.uint16(256) + lower[..., 1]
    return upper[..., :3] * np.uint16(256) + lower[..., :3]


def _lower_bytes(raw_mode: str) -> str:
    """The raw mode under which PIL decodes the lower byte of each channel."""
    if raw_mode.startswith("LA"):
        return "RGBA"  # as many bytes: upper and lower of the grey, upper and lower of the alpha
    native = ";16L" if sys.byteorder == "big" else ";16B"
    swapped = {";16B": ";16L", ";16L": ";16B", ";16N": native}
    channels, _, end = raw_mode.partition(";")
    return channels + swapped[f";{end}"]


def _set_raw_mode(image: Image.Image, raw_mode: str) -> None:
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
        for tile in image.tile
    ]


def _is_deep_file(path: str, data: DataConfig) -> bool:
    if path.lower().endswith(_EIGHT_BITS_ALWAYS):
        return False
    with opened(path, "image", data.max_pixels) as image:
        return is_deep(image)


def _bounds(path: str, data: DataConfig) -> tuple[float, float]:
    """Lowest and highest value of an image, but for the extreme ones."""
    with opened(path, "image", data.max_pixels) as image:
        values = pixels(image, path, data).ravel()
    values = values[np.isfinite(values)]
    if not values.size:
        return math.inf, -math.inf
    left_out = int(values.size * _EXTREME)
    ends = np.partition(values, (left_out, values.size - 1 - left_out))
    return float(ends[left_out]), float(ends[values.size - 1 - left_out])


def _range(low: float, high: float) -> tuple[float, float]:
    """Black and white of values from `low` to `high`; see `with_value_range`."""
    if low > high:
        return 0.0, 1.0  # no value at all
    white = 2.0 ** math.ceil(math.log2(max(high, 0) + 1)) - 1 if high > 1 else 1.0
    if low >= 0 and 4 * (high - low) >= white:
        return 0.0, white
    margin = (high - low) / 4 or 1.0
    return low - margin, high + margin


@cache  # there may be thousands of such images
def _warn_once(low: float, high: float) -> None:
    log.warning(
        "16-bit images, where the training saw none: %g is taken for black, %g for white", low, high
    )


def _range_of_type(image: Image.Image) -> tuple[float, ...]:
    """What 16 bits hold, where nothing else is known; nothing where the type has no white."""
    wide = image.mode[:4] == "I;16" or has_channels(image)
    return SIXTEEN_BITS if wide or image.format == "PPM" else ()
