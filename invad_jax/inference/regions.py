"""Where on a map an anomaly lies: connected regions above a level, in pixels of the photograph."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

_WITH_CORNERS = np.ones((3, 3), bool)


class Region(NamedTuple):
    """One region; pixels of the image that `find` was told the size of."""

    left: int
    """Of the first column, from 0."""
    top: int
    width: int
    height: int
    area: int
    """Pixels of the region itself, at least 1."""
    peak: float
    """Largest value of the map in it."""


def find(anomaly_map: np.ndarray, level: float, size: tuple[int, int]) -> list[Region]:
    """The regions of a map above a level, the highest peak first; corners connect.

    Args:
      anomaly_map: (S, S) float32, of the square that the image was resized to.
      level: such as where heat begins, which one in a thousand positions of normal images exceeds.
      size: (width, height) of the image, pixels.

    >>> square = np.zeros((4, 4)); square[1, 2:] = 5.0
    >>> find(square, 1.0, (8, 4))
    [Region(left=4, top=1, width=4, height=1, area=4, peak=5.0)]
    """
    hot = anomaly_map > level
    labels, count = ndimage.label(hot, _WITH_CORNERS)
    if not count:
        return []
    peaks = np.full(count + 1, level, anomaly_map.dtype)
    np.maximum.at(peaks, labels[hot], anomaly_map[hot])
    across, down = size[0] / anomaly_map.shape[1], size[1] / anomaly_map.shape[0]
    areas = np.bincount(labels.ravel())[1:] * across * down
    found = [
        _region(rows, columns, across, down, area, peak)
        for (rows, columns), area, peak in zip(
            ndimage.find_objects(labels), areas, peaks[1:], strict=True
        )
    ]
    return sorted(found, key=lambda region: -region.peak)


def _region(
    rows: slice, columns: slice, across: float, down: float, area: float, peak: float
) -> Region:
    """Outwards to whole pixels."""
    left, top = int(columns.start * across), int(rows.start * down)
    right, bottom = int(np.ceil(columns.stop * across)), int(np.ceil(rows.stop * down))
    return Region(left, top, right - left, bottom - top, max(round(area), 1), float(peak))
