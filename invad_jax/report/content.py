"""What the script of a page knows: every image in numbers, and where each kind's threshold lies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invad_jax.metrics import PerRegionOverlap
from invad_jax.normality.calibrations import Calibrations

_NONE = np.empty(0)
Row = Mapping[str, Any]
_DIGITS = 6  # of what is drawn; scores and thresholds, of which decisions are made, are exact


def as_json(
    rows: Sequence[Row],
    calibrations: Calibrations,
    normals: Mapping[str, np.ndarray],
    pro: Mapping[str, PerRegionOverlap],
    labelled: bool,
) -> str:
    """The content of a `<script type="application/json">`, which nothing in it can end.

    Args:
      rows: of images that have a score, as `page.write_html` takes them.
      calibrations: of each kind that occurs in them.
      normals: kind -> scores of the normal images that set its threshold.
      pro: category -> its curve.
      labelled: whether the rows have a ground truth.
    """
    categories = sorted({row["category"] for row in rows}) if labelled else []
    defects = sorted({row["defect"] for row in rows}) if labelled else []
    names = [name for name, _ in calibrations]
    score = "image_score_calibrated" if labelled else "image_score"
    images = {
        "path": [row["path"] for row in rows],
        "kind": [names.index(row["component"]) for row in rows],
        "score": [row[score] for row in rows],
        "terms": {
            name: [_short(row[name]) for row in rows if name in row] for name in calibrations.terms
        },
    }
    if labelled:
        images["category"] = [categories.index(row["category"]) for row in rows]
        images["defect"] = [defects.index(row["defect"]) for row in rows]
        images["label"] = [row["gt_label"] for row in rows]
    kinds = [
        {
            "name": name,
            "threshold": one.threshold,
            "normals": [_short(value) for value in normals.get(name, _NONE)],
            "range": score_range(
                [row[score] for row in rows if row["component"] == name],
                one.threshold,
                normals.get(name, _NONE),
            ),
        }
        for name, one in calibrations
    ]
    curves = [
        [[_short(x) for x in pro[name].fpr], [_short(y) for y in pro[name].overlap]]
        if name in pro
        else None
        for name in categories
    ]
    content = {
        "labelled": labelled,
        "table": "scores.csv" if labelled else "the table beside it",
        "kinds": kinds,
        "categories": categories,
        "images": images,
        "pro": curves,
    }
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))  # ASCII alone
    return text.replace("<", "\\u003c")


def score_range(
    scores: Sequence[float], threshold: float, normals: np.ndarray
) -> tuple[float, float]:
    """Where an axis of scores begins and ends: what lies far out counts as at its end, so that the
    threshold and what is near it fill the axis."""
    known = np.array([*scores, *normals, threshold])
    typical = float(np.median(normals)) if len(normals) else 0.0  # as of any calibration
    usual = float(np.quantile(normals, 0.84)) - typical if len(normals) else 0.0
    spread = max(abs(threshold - typical), usual, 1e-6)  # where somebody set it at the median
    low = max(float(known.min()), min(typical, threshold) - 2 * spread)
    high = min(float(known.max()), max(typical, threshold) + 4 * spread)
    return low - 0.05 * spread, max(high, max(typical, threshold) + 0.5 * spread)


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
