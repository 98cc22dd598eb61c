"""Compares two evaluations of one test set: scores, metrics, decisions and speed.

    python -m invad_jax.compare runs/a runs/b
    python -m invad_jax.compare runs/a/eval elsewhere.csv --out /tmp/a_b --allow-flips 2

RUN is a workdir, a folder that `eval` wrote, or a CSV file with the columns `path` and at least one
of nll, map_range, image_score_calibrated (or image_score) and image_score_test_minmax; and, if it
has them, category, gt_label and decision. A is the reference. Images are matched by their paths,
or by the ends of the paths where the data set lies elsewhere.

Leaves with status 0 within the tolerances, 1 past one of them, 2 if there is nothing to compare.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from invad_jax import cli as cli_lib
from invad_jax import files
from invad_jax.errors import UserError
from invad_jax.evaluations import (
    DECISIONS,
    TERMS,
    Run,
    flat_metrics,
    image_tables,
    match,
    read_run,
)
from invad_jax.report import METRICS

SCORE_TOLERANCE = 1e-2
"""Of the spread: a shift by a hundredth of it can change the order of near ties only."""
METRIC_TOLERANCE = 1e-3
"""One unit of the last digit that tables print (0.1 %)."""
ALLOWED_FLIPS = 0
"""A decision is what a line acts on: none may change unnoticed."""


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
        "a": {"source": str(a.source), "device": _device(a)},
        "b": {"source": str(b.source), "device": _device(b)},
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


def _device(run: Run) -> str | None:
    device = (run.report or {}).get("device")
    if not isinstance(device, dict):
        return None
    return f"{device.get('count')} x {device.get('kind')} ({device.get('platform')})"


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


def markdown(result: dict[str, Any]) -> str:
    """The comparison as a page: the verdict first, then a section for each kind of difference."""
    lines = ["# Comparison of two evaluations", ""]
    for name in ("a", "b"):
        device = result[name]["device"] or "device not stated"
        lines.append(f"- {name.upper()}: {_code(result[name]['source'])}, {device}")
    lines += [f"- {result['images']} images, matched by the last "
              f"{result['matched_path_components']} parts of their paths", ""]  # fmt: skip
    lines += ["## Verdict", ""]
    lines += [f"- {line}" for line in result["past_tolerances"]] or ["Within the tolerances."]
    lines += ["", "## Scores of the same images", ""]
    lines += _score_table(result["scores"])
    for fusion in dict.fromkeys(row["fusion"] for row in result["metrics"]):
        lines += ["", f"## Metrics, {fusion}, in percent", ""]
        lines += _metric_table([row for row in result["metrics"] if row["fusion"] == fusion])
    if result["decisions"]:
        flips, compared = result["decisions"]["flips"], result["decisions"]["compared"]
        lines += ["", f"## Decisions: {len(flips)} of {compared} flip"] + [""] * bool(flips)
        lines += [f"- {_code(row['path'])}: {row['a']} in A, {row['b']} in B" for row in flips]
    if result["speed"]:
        rows = [[name, f"{row['a']:.4g}", f"{row['b']:.4g}", f"{row['ratio']:.3g}"]
                for name, row in result["speed"].items()]  # fmt: skip
        lines += ["", "## Speed", "", *_table(["", "A", "B", "B / A"], rows)]
    return "\n".join(lines).rstrip() + "\n"


def _score_table(scores: dict[str, dict[str, Any]]) -> list[str]:
    header = ["score", "largest difference", "of the spread", "mean difference", "of the spread",
              "rank correlation", "furthest apart"]  # fmt: skip
    names = ("max", "max_of_spread", "mean", "mean_of_spread")
    rows = [
        [
            term,
            *(f"{row[name]:.3g}" for name in names),
            "-" if row["rank_correlation"] is None else f"{row['rank_correlation']:.6f}",
            _code(row["worst"]),
        ]
        for term, row in scores.items()
    ]
    return _table(header, rows)


def _metric_table(rows: list[dict[str, Any]]) -> list[str]:
    """The means of A and B, then B - A of each category and of the mean."""
    names = [name for name in METRICS if any(row["metric"] == name for row in rows)]
    cell = {(row["category"], row["metric"]): row for row in rows}

    def line(title: str, category: str, key: str, form: str) -> list[str]:
        values = [cell.get((category, name), {}).get(key) for name in names]
        return [title, *("-" if v is None else format(100 * v, form) for v in values)]

    categories = dict.fromkeys(row["category"] for row in rows)
    body = [
        line("mean, A", "mean", "a", ".2f"),
        line("mean, B", "mean", "b", ".2f"),
        *(line(f"B - A, {name}", name, "difference", "+.2f") for name in categories),
    ]
    return _table(["", *names], body)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(header)
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def _code(text: str) -> str:
    """A path as code that no character of it breaks out of."""
    printable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "`" + printable.replace("`", "'").replace("|", "\\|").replace("\n", " ") + "`"


def main(args: argparse.Namespace) -> int:
    """From two runs to a page, and the exit status."""
    tolerances = {
        name: getattr(args, name) for name in ("tolerance_score", "tolerance_metric", "allow_flips")
    }
    for name, value in tolerances.items():
        if not value >= 0:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 0")
    result = compare(read_run(args.run_a), read_run(args.run_b))
    past = past_tolerances(result, *tolerances.values())
    # JSON has no infinity, which stands for "no limit": null.
    result["tolerances"] = {k: v if math.isfinite(v) else None for k, v in tolerances.items()}
    result["past_tolerances"] = past
    page = markdown(result)
    if args.out:
        files.write_json(Path(args.out) / "compare.json", result)
        files.write_text(Path(args.out) / "compare.md", page)
    print(page, end="")
    return 1 if past else 0


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = cli_lib.Parser(__doc__)
    parser.add_argument("run_a", metavar="RUN_A", help="the reference")
    parser.add_argument("run_b", metavar="RUN_B", help="what is compared with it")
    parser.add_argument("--out", metavar="DIR", help="also write compare.md and compare.json there")
    parser.add_argument(
        "--tolerance-score", metavar="X", type=float, default=SCORE_TOLERANCE,
        help="largest difference of any image's score, in standard deviations of the score over "
        "A's images; inf sets no limit; default %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance-metric", metavar="Y", type=float, default=METRIC_TOLERANCE,
        help="largest difference of any metric, in 0..1; default %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--allow-flips", metavar="N", type=int, default=ALLOWED_FLIPS,
        help="decisions that may differ; default %(default)s",
    )  # fmt: skip
    return cli_lib.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
