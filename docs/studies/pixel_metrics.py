"""What exact pixel metrics cost: beside scikit-learn, beside a loop over 200 thresholds, in memory.

    python docs/studies/pixel_metrics.py times
    python docs/studies/pixel_metrics.py memory --maps 100 1000 10000

Maps of 256 x 256. `times` takes all in turn: the four metrics as `eval` has them; the three that
scikit-learn has, on the same pixels; and AUPRO as published code computes it, which looks at every
region of every mask at each of 200 thresholds. `memory` draws maps in parts, which are never all
there, in a process for each number, and asks the system for the most memory that it held.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage

from invad_jax import metrics
from invad_jax.benchmarks.clock import Run, interleaved, summary
from invad_jax.benchmarks.whole import METRIC_SIDE, drawn_maps
from invad_jax.report.tables import markdown_table

THRESHOLDS, FPR_LIMIT = 200, 0.3
ONE_IN = 10
"""Of many maps so many have a region."""
OURS, SKLEARN, LOOP = "exact: all four", "scikit-learn: AUROC, AP, F1", "200 thresholds: AUPRO"


def region_loop(anomaly_map: np.ndarray, gt_mask: np.ndarray) -> float:
    """AUPRO by 200 thresholds between the lowest and the highest score; (N, H, W) each."""
    regions = []
    for one, mask in zip(anomaly_map, gt_mask, strict=True):
        label, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [(one, label == k) for k in range(1, count + 1)]
    fpr, overlap = [], []
    for threshold in np.linspace(anomaly_map.min(), anomaly_map.max(), THRESHOLDS):
        found = anomaly_map >= threshold
        overlap.append(np.mean([(one >= threshold)[region].mean() for one, region in regions]))
        fpr.append((found & ~gt_mask).sum() / (~gt_mask).sum())
    x, y = np.array(fpr[::-1]), np.array(overlap[::-1])
    inside = x <= FPR_LIMIT
    x = np.r_[0.0, x[inside], FPR_LIMIT]
    y = np.r_[0.0, y[inside], np.interp(FPR_LIMIT, fpr[::-1], overlap[::-1])]
    return float(np.trapezoid(y, x) / FPR_LIMIT)


def by_sklearn(anomaly_map: np.ndarray, gt_mask: np.ndarray) -> dict[str, float]:
    """Three of the metrics of all pixels; (N, H, W) each."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    label, score = gt_mask.ravel(), anomaly_map.ravel()
    precision, recall, _ = precision_recall_curve(label, score)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {
        "p_auroc": float(roc_auc_score(label, score)),
        "p_ap": float(average_precision_score(label, score)),
        "p_f1_max": float(f1.max()),
    }


def times(maps: int, seconds: float, repeats: int) -> list[list[str]]:
    """Rows of the table."""
    given = drawn_maps(maps)
    runs: dict[str, Run] = {
        OURS: lambda: metrics.pixel_metrics(*given),
        SKLEARN: lambda: by_sklearn(*given),
        LOOP: lambda: region_loop(*given),
    }
    found = {name: summary(t) for name, t in interleaved(runs, seconds, repeats).items()}
    ours = found[OURS]["p50_ms"]
    return [
        [name, f"{one['p50_ms'] / 1e3:.3f}", f"{one['spread']:.2f}", f"{one['p50_ms'] / ours:.1f}"]
        for name, one in found.items()
    ]


def drawn_in_parts(maps: int) -> metrics.Parts:
    """So many maps, a part at a time, the same each time."""

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray, None]]:
        for some in metrics.in_parts(np.arange(maps), METRIC_SIDE**2):
            assert isinstance(some, slice)
            yield *drawn_maps(some.stop - some.start, ONE_IN, some.start), None

    return parts


def held(maps: int) -> list[str]:
    """A row: the most memory of a process of its own, and what is stated for it."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "one", "--maps", str(maps)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    base, peak = (int(number) for number in done.stdout.split())
    anomalous = -(-maps // ONE_IN) * 32 * 40
    stated = 110 * anomalous + 2 * 11 * min(metrics.PART, maps * METRIC_SIDE**2)
    return [f"{maps:,}", f"{(peak - base) / 1e6:.0f}", f"{stated / 1e6:.0f}", f"{seconds:.0f}"]


def peak_bytes() -> int:
    """The most that this process has had, as Linux counts its pages."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("times", "memory", "one"))
    parser.add_argument("--maps", nargs="+", type=int, default=[100])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.what == "one":
        base = peak_bytes()
        metrics.pixel_metrics_of(drawn_in_parts(args.maps[0]))
        print(base, peak_bytes())
    elif args.what == "times":
        head = (f"of {args.maps[0]} maps", "seconds", "spread", "times ours")
        print("\n".join(markdown_table(head, times(args.maps[0], args.seconds, args.repeats))))
    else:
        head = ("maps", "MB at most", "MB stated", "seconds")
        print("\n".join(markdown_table(head, [held(maps) for maps in args.maps])))


if __name__ == "__main__":
    main()
