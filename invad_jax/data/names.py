"""What the names of folders and files mean: normal, anomalous, a mask, a split.

People name the same things in many ways. Case, spaces, hyphens and underscores are no matter, and a
name that is not here is the name of a defect. Read next: `folders.py`, which sorts files by them.
"""

from __future__ import annotations

import os
import re
from functools import cache

from PIL import features

from invad_jax.errors import UserError

NORMAL = frozenset(
    """
    good goods ok okay normal normals nominal pass passed healthy defectfree nodefect nodefects
    nondefective noanomaly noanomalies nonanomalous anomalyfree
    """.split()
)
"""Folders and labels that mean normal; `Sample.defect` calls them all `good`."""

ANOMALOUS = frozenset(
    """
    ng nok ko notok bad ungood notgood abnormal abnormals anomalous anomaly anomalies defect
    defects defective fail failed faulty reject rejects rejected
    """.split()
)
"""Folders of anomalous images of any kind; the folders in them, if any, are the defects."""

MASKS = frozenset(
    """
    mask masks gt gts groundtruth groundtruths label labels annotation annotations segmentation
    segmentations seg
    """.split()
)
"""Folders of masks. `mask`, `gt` and `ground truth` mean them also as a word of a longer name."""

IMAGES = frozenset(("img", "imgs", "image", "images", "rgb"))
"""Folders that say nothing but that images are in them, where masks or other data lie beside."""

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "tests", "testing", "testpublic"), "test"),
}
"""What the folder of a split may be called."""

EXTENSIONS = (
    *"""
    .apng .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpf .jpg .jpx .pbm .pcx .pfm .pgm .png
    .pnm .ppm .psd .qoi .sgi .tga .tif .tiff .webp
    """.split(),
    *((".avif",) if features.check("avif") else ()),
)
"""What counts as an image, by the lower-case end of the file name: what PIL reads."""

UNREAD_EXTENSIONS = tuple(
    """
    .3fr .arw .avif .cr2 .cr3 .czi .dcm .dicom .dng .eps .exr .fit .fits .hdr .heic .heif .hif
    .ico .jxl .jxr .mat .mhd .mrc .nef .nii .npy .npz .orf .pdf .raf .raw .rw2 .svg .xcf
    """.split()
)
"""Other formats that images come in; files that are called so are named as left out."""

_WORD = r"(?:mask|gt|ground[-_ ]?truth|label|annotation|segmentation|seg)s?"
_MASK_IN_FOLDER = re.compile(r"(?:^|[-_. ])(?:masks?|gts?|ground[-_ ]?truths?)(?=$|[-_. ])")
_MASK_AT_END = re.compile(rf"(.+?)[-_. ]+{_WORD}[-_. ]?\d*")
_MASK_AT_START = re.compile(rf"{_WORD}[-_. ]+(.+)")
_IMAGE_AT_END = re.compile(r"(.+?)[-_. ]+(?:img|image|rgb)")
_IMAGE_AT_START = re.compile(r"(?:img|image|rgb)[-_. ]+(.+)")
_EXTENSION_AT_END = re.compile(r"(.+)\.(?:png|jpe?g|bmp|tiff?)")

_BREAKS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


@cache
def plain(name: str) -> str:
    """A name without what people vary: case, spaces and punctuation.

    >>> plain("Ground-Truth"), plain("broken_large")
    ('groundtruth', 'brokenlarge')
    """
    return re.sub(r"[\W_]+", "", name.casefold()) or name.casefold()


def is_normal(name: str) -> bool:
    """Whether a folder or a label of this name holds normal images."""
    return plain(name) in NORMAL


def is_image(name: str) -> bool:
    """Whether a file of this name is an image that can be read."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def is_unread_format(name: str) -> bool:
    """Whether a file of this name is an image that cannot be read."""
    return os.path.splitext(name)[1].lower() in UNREAD_EXTENSIONS and not is_image(name)


def is_hidden(name: str) -> bool:
    """Whether an operating system or a file server hides it, as its own."""
    return name.startswith((".", "@", "$")) or name == "__MACOSX"


@cache
def mask_folder(name: str) -> str | None:
    """What the name of a folder of masks says beside that, maybe nothing; None for other folders.

    >>> mask_folder("Ground truth"), mask_folder("NG_masks"), mask_folder("torn_label")
    ('', 'ng', None)
    """
    if plain(name) in MASKS:
        return ""
    rest, count = _MASK_IN_FOLDER.subn("", name.casefold(), count=1)
    return plain(rest) if count else None


def mask_core(stem: str) -> str | None:
    """The stem of the image that a mask names beside saying that it is a mask; else None.

    >>> mask_core("000_mask"), mask_core("GT-007"), mask_core("007_mask_2"), mask_core("000")
    ('000', '007', '007', None)
    """
    found = _MASK_AT_END.fullmatch(stem.casefold()) or _MASK_AT_START.fullmatch(stem.casefold())
    return found[1] if found else None


def image_cores(stem: str) -> tuple[str, ...]:
    """What the mask of an image may be named after: its stem, and that without the word image.

    >>> image_cores("A_rgb")
    ('a_rgb', 'a')
    """
    stem = stem.casefold()
    found = _IMAGE_AT_END.fullmatch(stem) or _IMAGE_AT_START.fullmatch(stem)
    return (stem, found[1]) if found else (stem,)


def without_extension(stem: str) -> str:
    """The stem of `000.jpg.png` without the extension that is left in it.

    >>> without_extension("000.jpg"), without_extension("000")
    ('000', '000')
    """
    found = _EXTENSION_AT_END.fullmatch(stem.casefold())
    return stem[: found.end(1)] if found else stem


def check_path(path: str) -> None:
    """Raises UserError for a path that would break lines: those of tables, of logs, of messages."""
    if _BREAKS.search(path):
        raise UserError(f"{path!r}: a line break or control character in it; rename it")


def check(name: str, what: str) -> None:
    """The same for the name of a category or a defect, which must be text too."""
    if _BREAKS.search(name) or _is_no_text(name):
        raise UserError(
            f"{what} {name!r}: a line break, a control character or what is not UTF-8 in it; "
            "rename it"
        )


def _is_no_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False
