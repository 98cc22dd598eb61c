"""An image file, opened: what is wrong with it is one line. Read next: `preprocess.py`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from invad_jax.data.records import open_binary
from invad_jax.errors import UnavailableError, UserError

_BITS, _PLANES, _SEPARATE = 258, 284, 2
"""TIFF: bits a channel; how channels lie, and that each has a plane of its own."""


FORMATS = (
    *"BMP DIB GIF JPEG JPEG2000 PCX PNG PPM PSD QOI SGI TGA TIFF WEBP".split(),
    *(("AVIF",) if features.check("avif") else ()),
)
"""What files of `names.EXTENSIONS` hold. By content PIL takes more, and hands some to programs of
the system."""

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_check` says it


@contextmanager
def opened(path: str | Path, kind: str, max_pixels: int) -> Iterator[Image.Image]:
    """An image as it lies in the file, decoded on first use; errors of the block are the file's.

    Args:
      path: of the file.
      kind: what it is, for messages.
      max_pixels: what it may have, `data.max_pixels`.

    Raises:
      UserError: missing, damaged, of no known format, or too large.
      UnavailableError: the store that it lies in does not answer.
    """
    try:
        _lift_limit(max_pixels)
        # a stream, since PIL maps an uncompressed TIFF given by name and then garbles a turned one
        with open_binary(path) as stream, Image.open(stream, formats=FORMATS) as image:
            _check(image, path, max_pixels)
            yield image
    except (UserError, UnavailableError):
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path}: more than twice as many pixels as data.max_pixels={max_pixels}; make it "
            "smaller, or give a greater data.max_pixels"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: cannot be read as {kind}: of no known image format") from error
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read as {kind}: {reason}") from error


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; not decoded where it lies as it should."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _lift_limit(max_pixels: int) -> None:
    """PIL has a limit of its own, for the whole process, at twice which it refuses."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def _check(image: Image.Image, path: str | Path, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise UserError(
            f"{path}: {image.width} x {image.height} pixels are more than data.max_pixels="
            f"{max_pixels}; make it smaller, or give a greater data.max_pixels"
        )
    tags = getattr(image, "tag_v2", {})
    depths = tags.get(_BITS, (8,))  # of each channel
    if len(depths) > 1 and max(depths) > 8 and tags.get(_PLANES) == _SEPARATE:
        raise UserError(
            f"{path}: a TIFF of more than 8 bits with a plane for each colour, which PIL reads "
            "wrongly; save it with interleaved colours, or as PNG"
        )
