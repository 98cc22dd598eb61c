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

from invad_jax.errors import UserError
from invad_jax.evaluation.difference import compare, past_tolerances
from invad_jax.evaluation.saved import read_run
from invad_jax.io import files
from invad_jax.io.paths import to_path
from invad_jax.report.comparison import markdown
from invad_jax.runtime import cli as command_line

SCORE_TOLERANCE = 1e-2
"""Of the spread: a shift by a hundredth of it can change the order of near ties only."""
METRIC_TOLERANCE = 1e-3
"""One unit of the last digit that tables print (0.1 %)."""
ALLOWED_FLIPS = 0
"""A decision is what a line acts on: none may change unnoticed."""


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
        files.write_json(to_path(args.out) / "compare.json", result)
        files.write_text(to_path(args.out) / "compare.md", page)
    print(page, end="")
    return 1 if past else 0


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.in_buckets.update(("run_a", "run_b", "out"))
    parser.add_argument("run_a", metavar="RUN_A", help="the reference")
    parser.add_argument("run_b", metavar="RUN_B", help="what is compared with it")
    parser.add_argument("--out", metavar="DIR", help="also write compare.md and compare.json there")
    parser.add_argument(
        "--tolerance-score",
        metavar="X",
        type=float,
        default=SCORE_TOLERANCE,
        help="largest difference of any image's score, in standard deviations of the score over "
        "A's images; inf sets no limit; default %(default)s",
    )
    parser.add_argument(
        "--tolerance-metric",
        metavar="Y",
        type=float,
        default=METRIC_TOLERANCE,
        help="largest difference of any metric, in 0..1; default %(default)s",
    )
    parser.add_argument(
        "--allow-flips",
        metavar="N",
        type=int,
        default=ALLOWED_FLIPS,
        help="decisions that may differ; default %(default)s",
    )
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
