"""The pictures of a case for a page: one photograph, and what lies over it as small pictures.

A page stretches heat and ground truth over the photograph, so that each is there once, can be taken
off, and is sharp when it is enlarged.
"""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from invad_jax.report.figures import CONTOUR, HEAT, OPACITY, Case, heat_picture, outline

SIDE = 640
"""Pixels of the longer side of a photograph on a page, at most."""
_HEAT_SIDE = 128  # maps have a few dozen positions a side
_QUALITY = 80


class Pictures(NamedTuple):
    """Data URIs, or None where there is nothing to show."""

    photograph: str
    width: int
    """Of the photograph, pixels."""
    height: int
    heat: str | None
    """The parts without heat are transparent."""
    ground_truth: str | None
    """An outline."""

    @property
    def size(self) -> int:
        """Characters."""
        return sum(len(uri or "") for uri in (self.photograph, self.heat, self.ground_truth))


def of_case(case: Case) -> Pictures:
    """Encodes a case."""
    photograph = Image.fromarray(case.image)
    photograph.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    photograph.save(stream, format="JPEG", quality=_QUALITY)
    ground_truth = None
    if case.gt_mask is not None and case.gt_mask.any():
        ground_truth = _ground_truth(case.gt_mask, photograph.size)
    heat = heat_png(case.anomaly_map, *case.heat)
    return Pictures(
        _uri("jpeg", stream.getvalue()),
        *photograph.size,
        _uri("png", heat) if heat else None,
        ground_truth,
    )


def heat_png(anomaly_map: np.ndarray, low: float, high: float) -> bytes | None:
    """Heat as a PNG to be stretched over a photograph, transparent where there is none; None
    where there is none at all. Arguments as of `figures.overlay`."""
    size = (min(_HEAT_SIDE, 4 * anomaly_map.shape[1]), min(_HEAT_SIDE, 4 * anomaly_map.shape[0]))
    picture = heat_picture(anomaly_map, size, low, high)
    if not picture.getbbox():
        return None
    return _png(picture, transparency=OPACITY.tobytes())


def colour_bar() -> str:
    """The colours of heat as a CSS gradient, over whatever lies below."""
    stops = [
        f"rgb({' '.join(map(str, HEAT[i].tolist()))} / {OPACITY[i] / 2.55:.0f}%)"
        for i in (1, *range(51, 256, 51))
    ]
    return f"linear-gradient(to right, {', '.join(stops)})"


def _ground_truth(gt_mask: np.ndarray, size: tuple[int, int]) -> str:
    picture = Image.fromarray(outline(gt_mask, size).astype(np.uint8), "P")
    picture.putpalette([*CONTOUR, *CONTOUR])
    return _uri("png", _png(picture, transparency=bytes((0, 255)), bits=1))


def _png(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True, **options)
    return stream.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
