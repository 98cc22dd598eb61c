"""In what two evaluations of one test set differ, and what of it is past a tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from invad_jax.errors import UserError
from invad_jax.evaluation.saved import DECISIONS, TERMS, Run, flat_metrics, image_tables, match


def compare(a: Run, b: Run) -> dict[str, Any]:
    """Everything that differs, as plain values: what `compare.json` holds, but for the verdict.

    Raises:
      UserError: the images do not match, or no score is in both.
    """
    b, depth = match(a, b)
    common = [name for name in TERMS if name in a.terms and name in b.terms]
    if not common:
        raise UserError(
            f"{a.source} has {', '.join(a.terms)}, {b.source} has {', '.join(b.terms)}: "
            "no score is in both"
        )
    return {
        "schema": 1,
        "a": _about(a),
        "b": _about(b),
        "unlike": _unlike(a, b),
        "images": len(a.paths),
        "matched_path_components": depth,
        "scores": {
            name: score_difference(a.terms[name], b.terms[name], a.paths) for name in common
        },
        "metrics": metric_differences(a, b),
        "decisions": decision_flips(a, b),
        "speed": speed_ratios(a, b),
    }


def score_difference(a: np.ndarray, b: np.ndarray, paths: Sequence[str]) -> dict[str, Any]:
    """How far the scores of the same images lie apart.

    Args:
      a: (N,) float64, the reference. Its standard deviation is the spread; 1 where that is 0.
      b: (N,) float64.
      paths: N names.
    """
    from scipy import stats  # half a second

    difference = np.abs(b - a)
    spread = float(np.std(a)) if np.ptp(a) > 0 else 1.0  # rounding alone can make a std of 1e-17
    ranked = np.ptp(a) > 0 and np.ptp(b) > 0  # of constants there is no rank correlation
    return {
        "max": float(difference.max()),
        "mean": float(difference.mean()),
        "spread": spread,
        "max_of_spread": float(difference.max()) / spread,
        "mean_of_spread": float(difference.mean()) / spread,
        "rank_correlation": float(stats.spearmanr(a, b).statistic) if ranked else None,
        "worst": paths[int(difference.argmax())],
    }


def metric_differences(a: Run, b: Run) -> list[dict[str, Any]]:
    """A row for each fusion, category and metric that either has, of the fusions of both.

    From `metrics.json` if both have it. Else the metrics of images are made for both of their
    scores, with the labels of either; without labels there are none.
    """
    if a.report is not None and b.report is not None:
        of_a, of_b = flat_metrics(a, a.report["fusion"]), flat_metrics(b, b.report["fusion"])
    else:
        labels = a.texts.get("gt_label") or b.texts.get("gt_label")
        category = a.texts.get("category") or b.texts.get("category") or ["all"] * len(a.paths)
        if labels is None:
            return []
        of_a, of_b = (flat_metrics(run, image_tables(run, labels, category)) for run in (a, b))
    fusions = {key[0] for key in of_a} & {key[0] for key in of_b}
    rows = []
    for key in dict.fromkeys((*of_a, *of_b)):
        x, y = of_a.get(key), of_b.get(key)
        if key[0] in fusions and (x, y) != (None, None):
            difference = None if x is None or y is None else y - x
            names = dict(zip(("fusion", "category", "metric"), key, strict=True))
            rows.append({**names, "a": x, "b": y, "difference": difference})
    return rows


def decision_flips(a: Run, b: Run) -> dict[str, Any] | None:
    """The images that A and B decide differently; None unless both have decisions."""
    if "decision" not in a.texts or "decision" not in b.texts:
        return None
    flips = [
        {"path": path, "a": of_a, "b": of_b}
        for path, of_a, of_b in zip(a.paths, a.texts["decision"], b.texts["decision"], strict=True)
        if DECISIONS[of_a] != DECISIONS[of_b]
    ]
    return {"compared": len(a.paths), "flips": flips}


def speed_ratios(a: Run, b: Run) -> dict[str, Any]:
    """What both measured, and B over A."""
    speeds = {}
    for keys in (("images_per_second",), ("latency_ms_batch1", "p50")):
        x, y = (_number_at(run.report, "speed", *keys) for run in (a, b))
        if x and y:
            speeds["_".join(keys)] = {"a": x, "b": y, "ratio": y / x}
    return speeds


def _number_at(value: Any, *keys: str) -> float | None:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _about(run: Run) -> dict[str, str | None]:
    """Where a run comes from, and what it was computed on and by; None of a CSV file."""
    texts = {name: _text(run, name) for name in ("paradigm", "precision")}
    return {"source": str(run.source), "device": _device(run), **texts}


def _unlike(a: Run, b: Run) -> dict[str, list[Any]]:
    """What both say of model and options, where it is not the same: name -> of A, of B."""
    found = {}
    for name in ("step", "seed", "objective", "terms", "config_hash"):
        x, y = ((run.report or {}).get(name) for run in (a, b))
        if None not in (x, y) and x != y:
            found[name] = [x, y]
    return found


def _device(run: Run) -> str | None:
    device = (run.report or {}).get("device")
    if not isinstance(device, dict):
        return None
    return f"{device.get('count')} x {device.get('kind')} ({device.get('platform')})"


def _text(run: Run, name: str) -> str | None:
    found = (run.report or {}).get(name)
    return found if isinstance(found, str) else None


def past_tolerances(
    result: dict[str, Any], score_tolerance: float, metric_tolerance: float, allowed_flips: int
) -> list[str]:
    """One line for everything in which A and B differ by more than is allowed."""
    past = [
        f"{term}: apart by {row['max_of_spread']:.3g} of the spread, allowed {score_tolerance:g}"
        for term, row in result["scores"].items()
        if row["max_of_spread"] > score_tolerance
    ]
    for row in result["metrics"]:
        name = f"{row['fusion']}, {row['category']}, {row['metric']}"
        if row["difference"] is None:
            past.append(f"{name}: exists in one only")
        elif abs(row["difference"]) > metric_tolerance:
            past.append(f"{name}: apart by {row['difference']:+.3g}, allowed {metric_tolerance:g}")
    flips = result["decisions"]["flips"] if result["decisions"] else []
    if len(flips) > allowed_flips:
        past.append(f"{len(flips)} decisions flip, allowed {allowed_flips}")
    return past
