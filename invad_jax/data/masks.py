"""The mask files of one image -> one boolean square: which pixels are anomalous.

Masks are drawn, exported, compressed and converted in many ways; the rule is the same for all.
Read next: `mask_files.py`, which masks an image has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from invad_jax.config import DataConfig
from invad_jax.data import preprocess
from invad_jax.data.opening import opened, upright
from invad_jax.errors import UserError

_HIGHEST_NUMBER = 31
"""Whole values up to this are numbers of kinds of defects, not shades."""

_FAINTEST_AREA = 1 / 16
"""Of the brightest: fainter shades are noise, also where they fill an area."""

_PLUS = ndimage.generate_binary_structure(2, 1)


def read_mask(paths: Sequence[str], image_path: str, data: DataConfig) -> np.ndarray:
    """What any of an image's masks marks, resized by nearest neighbour.

    A region that falls between the pixels of the smaller square marks those that it touches, so
    that no defect is lost.

    Args:
      paths: of the masks, at least one.
      image_path: of their image, which must have the same size.
      data: its `image_size` S is the side of the square, pixels.

    Returns:
      (S, S) bool.

    Raises:
      UserError: a file is missing or damaged, or sizes differ.
    """
    with opened(image_path, "image", data.max_pixels) as image:
        size = upright(image).size
    marked = union(paths, data)
    if marked.shape[::-1] != size:
        raise UserError(
            f"{paths[0]}: mask of {marked.shape[1]} x {marked.shape[0]} pixels, but its image "
            f"{image_path} has {size[0]} x {size[1]}"
        )
    rows, columns = preprocess.extent(size, data)
    around = ((0, data.image_size - rows), (0, data.image_size - columns))
    return np.pad(shrink(marked, rows, columns), around)


def read_region(data: DataConfig) -> np.ndarray | None:
    """What of every image takes part: (S, S) bool over the whole of it, in whatever proportions;
    None: all of it.

    Raises:
      UserError: it cannot be read, or marks nothing.
    """
    if not data.region:
        return None
    side = data.image_size
    marked = Image.fromarray(union([data.region], data))
    region = np.array(marked.resize((side, side), Image.Resampling.NEAREST))
    if not region.any():
        raise UserError(f"data.region={data.region}: marks nothing")
    return region


def union(paths: Sequence[str], data: DataConfig) -> np.ndarray:
    """What any of the masks marks, (H, W) bool.

    Raises:
      UserError: a file is missing or damaged, or their sizes differ.
    """
    marked: np.ndarray | None = None
    for path in paths:
        with opened(path, "mask", data.max_pixels) as mask:
            pixels = marked_pixels(upright(mask))
        if marked is not None and marked.shape != pixels.shape:
            raise UserError(f"{path}: mask of another size than {paths[0]}, of the same image")
        marked = pixels if marked is None else marked | pixels
    assert marked is not None, "no mask"
    return marked


def marked_pixels(mask: Image.Image) -> np.ndarray:
    """The pixels that a mask marks, (H, W) bool.

    - Transparent pixels are not marked. Where the opaque ones have one colour, they all are.
    - Of a palette whose colours are all the same, the numbers count.
    - A pixel is as bright as its brightest channel. Marked is what has at least half the brightness
      of the brightest pixel: smooth edges and compression make a region neither grow nor shrink.
    - Fainter shades are marked too if one fills an area, as where each kind of defect has its own.
    - Numbers of kinds of defects (1, 2, ...: whole values of which none exceeds 31) are all marked.
    """
    opaque = _opaque(mask)
    brightness = np.where(opaque, _brightness(mask), 0)
    if not opaque.all():
        shades = _brightness(mask)[opaque]
        if shades.size and (shades == shades[0]).all():
            return opaque
    return _bright(brightness)


def shrink(marked: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(H, W) bool -> (rows, columns) bool by nearest neighbour; every 8-connected region keeps a
    pixel."""
    height, width = marked.shape
    nearest = Image.fromarray(marked).resize((columns, rows), Image.Resampling.NEAREST)
    small = np.array(nearest)
    if (height <= rows and width <= columns) or not marked.any():
        return small
    region, count = ndimage.label(marked, np.ones((3, 3)))
    seen = np.zeros(count + 1, bool)
    sampled = Image.fromarray(region.astype(np.int32))
    seen[np.asarray(sampled.resize((columns, rows), Image.Resampling.NEAREST))] = True
    row, column = np.nonzero(~seen[region] & marked)
    small[row * rows // height, column * columns // width] = True
    return small


def _opaque(mask: Image.Image) -> np.ndarray:
    """(H, W) bool; where all pixels are equally opaque, that says nothing, and all are."""
    if not mask.has_transparency_data:
        return np.ones(mask.size[::-1], bool)
    alpha = np.asarray(mask.convert("RGBA"))[:, :, 3]
    return alpha >= 128 if alpha.min() != alpha.max() else np.ones(alpha.shape, bool)


def _brightness(mask: Image.Image) -> np.ndarray:
    """(H, W) of the type of the pixels, never negative."""
    if mask.mode[0] in "IF":  # deep; 8 bits would lose faint values
        return np.nan_to_num(np.asarray(mask), posinf=0, neginf=0).clip(0, None)
    colours = np.asarray(mask.convert("RGBA").convert("RGB"))  # PIL warns of doing it in one step
    brightness = colours.max(axis=-1)
    if mask.mode in ("P", "PA") and brightness.min() == brightness.max():
        return np.asarray(mask.getchannel(0))
    return brightness


def _bright(brightness: np.ndarray) -> np.ndarray:
    """The marked ones of (H, W) shades or numbers."""
    brightest = brightness.max()
    if brightest == 0:
        return np.zeros(brightness.shape, bool)
    if brightest <= _HIGHEST_NUMBER and (brightness == np.round(brightness)).all():
        return brightness > 0
    marked = 2.0 * brightness >= brightest
    faint = ~marked & (brightness >= _FAINTEST_AREA * brightest)
    if not faint.any():
        return marked
    low, high = (
        extreme(brightness, footprint=_PLUS)
        for extreme in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    areas = np.unique(brightness[faint & (low == high)])
    return marked | np.isin(brightness, areas)
