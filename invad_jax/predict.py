"""Scores new images that have no labels: a decision and a picture for each.

    python -m invad_jax.predict --workdir runs/hazelnut --input new_parts/ --out decisions/
    python -m invad_jax.predict --model hazelnut.invad --input *.jpg --out decisions/ --no-overlays

Needs nothing but the workdir, or the file that `export` made of it: no training images, no labels.
Writes predictions.csv, report.html and overlays/ into --out, which may be the folder of the images,
or lie in it: no image is replaced, and no overlay is ever taken for an image.

Leaves with status 0, or 1 if some images could not be read: they have a row with the reason.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from invad_jax.runtime import cli as command_line
from invad_jax.runtime.workdir import Workdir


def main(args: argparse.Namespace) -> int:
    """From images to `predictions.csv`, a page, and an overlay for each."""
    source = command_line.model_of(args)
    workdir = None if source.is_file() else Workdir(source)
    config = workdir.resolve(args.config, args.set) if workdir else None
    from invad_jax.data import inputs

    found = inputs.find(args.input)
    from invad_jax.evaluation import new_images
    from invad_jax.inference import predictor as predictors

    if workdir and config:
        predictor = predictors.of_workdir(workdir, config)
    else:
        predictor = predictors.of_bundle(source, args.set)
    data = predictor.model.config.data
    results = new_images.prepare(Path(args.out), found, data, not args.no_overlays)
    new_images.score(results, predictor)
    new_images.write_page(results, predictor, source, _command(source, args))
    return 1 if results.failed else 0


def _command(source: Path, args: argparse.Namespace) -> str:
    """What was typed, for the page; of very many images the first."""
    given = [*args.input[:3], *(["..."] if len(args.input) > 3 else [])]
    words = ["--model", str(source), "--input", *given, "--out", args.out]
    words += ["--no-overlays"] if args.no_overlays else []
    words += ["--set", *args.set] if args.set else []
    return shlex.join(["python", "-m", "invad_jax.predict", *words])


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_run()
    parser.add_model()
    parser.add_argument(
        "--input", required=True, nargs="+", action="extend", metavar="FILE_OR_FOLDER",
        help="what to score: images, folders with their subfolders, patterns",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write")
    parser.add_argument("--no-overlays", action="store_true", help="no picture of each image")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
