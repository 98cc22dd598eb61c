"""One image file -> one uint8 square.

A path may also be that of a file in a prepared data set (`records.py`).

Read next: `pipeline.py`, which turns many of these into batches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from invad_jax.data.records import open_binary
from invad_jax.errors import UserError

EXTENSIONS = (
    ".apng", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpf", ".jpg",
    ".jpx", ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".sgi", ".tga",
    ".tif", ".tiff", ".webp", *((".avif",) if features.check("avif") else ()),
)  # fmt: skip
"""What counts as an image, by the lower-case end of the file name: what PIL reads."""

UNREAD_EXTENSIONS = (
    ".3fr", ".arw", ".avif", ".cr2", ".cr3", ".czi", ".dcm", ".dicom", ".dng", ".eps", ".exr",
    ".fit", ".fits", ".hdr", ".heic", ".heif", ".hif", ".ico", ".jxl", ".jxr", ".mat", ".mhd",
    ".mrc", ".nef", ".nii", ".npy", ".npz", ".orf", ".pdf", ".raf", ".raw", ".rw2", ".svg", ".xcf",
)  # fmt: skip
"""Other formats that images come in; files that are called so are named as left out."""

_WHITE = {
    "I;16": (2.0**16 - 1,),
    "I": (2.0**8 - 1, 2.0**16 - 1, 2.0**31 - 1),
    "F": (1.0, 2.0**8 - 1, 2.0**16 - 1),
}
"""The values that may mean white, by PIL mode: types wider than the data do not say it."""


def is_image(name: str) -> bool:
    """Whether a file of this name is an image that can be read."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def is_unread_format(name: str) -> bool:
    """Whether a file of this name is an image that cannot be read."""
    return os.path.splitext(name)[1].lower() in UNREAD_EXTENSIONS and not is_image(name)


def image_paths(folder: str | Path, recursive: bool = False) -> list[str]:
    """Image files in a folder, sorted by path; hidden files and folders are left out.

    Args:
      folder: an existing folder.
      recursive: also those in its subfolders.
    """
    folder = Path(folder)
    return [
        str(path)
        for path in sorted(folder.rglob("*") if recursive else folder.iterdir())
        if is_image(path.name)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]


def read_image(path: str | Path, image_size: int) -> np.ndarray:
    """Reads a whole image, upright, as RGB, resized bilinearly to a square (no crop).

    Any mode that PIL reads: grey and palette images become RGB, transparency is dropped, deeper
    pixels are scaled to 8 bits by the range of their type (`_to_8_bit`).

    Args:
      path: of the file.
      image_size: side S of the square, pixels.

    Returns:
      (S, S, 3) uint8.

    Raises:
      UserError: missing, damaged or not an image.
    """
    with opened(path, "image") as image:
        rgb = to_rgb(image)
        return np.asarray(rgb.resize((image_size, image_size), Image.Resampling.BILINEAR))


def read_original(path: str | Path) -> np.ndarray:
    """Reads a whole image as `read_image` does, at its own size: (H, W, 3) uint8."""
    with opened(path, "image") as image:
        return np.asarray(to_rgb(image))


@contextmanager
def opened(path: str | Path, kind: str) -> Iterator[Image.Image]:
    """An upright image, decoded on first use; errors of the block are those of the file."""
    try:
        # a stream, since PIL maps an uncompressed TIFF given by name and then garbles a turned one
        with open_binary(path) as stream, Image.open(stream) as image:
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                ImageOps.exif_transpose(image, in_place=True)
            yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: cannot be read as {kind}: of no known image format") from error
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read as {kind}: {reason}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # I, I;16, I;16B, F
        return Image.fromarray(_to_8_bit(image)).convert("RGB")
    if "transparency" in image.info:  # PIL warns when it is dropped in one step
        image = image.convert("RGBA")
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> np.ndarray:
    """Scales deep grey pixels to 0..255; (H, W) uint8.

    The scale should not change from image to image, or brightness could no longer be compared: 16
    bits are divided by 257, whatever the image holds. Where the type does not tell (32-bit
    integers, floats), white is the smallest usual value that no pixel exceeds.
    """
    pixels = np.nan_to_num(np.asarray(image, np.float64), posinf=0.0, neginf=0.0)  # (H, W)
    brightest = pixels.max()
    white = next((w for w in _WHITE[image.mode[:4]] if brightest <= w), brightest)
    return np.rint(pixels.clip(0, white) * (255 / white)).astype(np.uint8)
