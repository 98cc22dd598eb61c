"""Scores new images that have no labels: a decision, its reason and a picture for each.

    python -m invad_jax.predict --workdir runs/hazelnut --input new_parts/ --out decisions/
    python -m invad_jax.predict --model hazelnut.invad --input *.jpg --out decisions/ --no-overlays
    python -m invad_jax.predict --model hazelnut.invad --input camera/ --watch --out decisions/
    find . -name '*.png' | python -m invad_jax.predict --model hazelnut.invad --input - --out -

Needs nothing but the workdir, or the file that `export` made of it: no training images, no labels.
Writes predictions.csv (or .jsonl), report.html and overlays/ into --out, which may be the folder of
the images, or lie in it: no image is replaced, and no overlay is ever taken for an image. A row is
written as soon as it is known; a kill loses none of those before. With `--out -` the rows go to the
standard output, and there is nothing else; with --watch or `--input -` there is no page, and the
table of the start before is renamed: predictions_1.csv, then _2.

With --distributed every process scores its own share of the images, as many as there are: --out, a
folder that all see, gets the same rows, and summary.json in place of the page. The same command
goes on where it was stopped (docs/pods.md). Its status is 1 only with --strict.

An image that cannot be read has a row with the reason. Leaves with status 0; 1 if there is such a
row, with --strict also if an overlay or a sorted file is missing; 2 if none could be read.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from invad_jax.errors import UserError
from invad_jax.io.paths import to_path
from invad_jax.runtime import cli as command_line

if TYPE_CHECKING:
    from invad_jax.data.inputs import Inputs
    from invad_jax.evaluation.records import Drawer, Recorder, Sorting
    from invad_jax.evaluation.tally import Tally
    from invad_jax.inference.predictor import Predictor


def main(args: argparse.Namespace) -> int:
    """From images to rows, a page, and an overlay for each."""
    source = command_line.source_of(args)
    endless = _check(args)
    import jax

    from invad_jax.data import inputs
    from invad_jax.evaluation import records
    from invad_jax.inference import predictor as predictors
    from invad_jax.report.tables import UNREADABLE
    from invad_jax.runtime import processes

    given = itertools.chain(args.input, inputs.listed(args.list) if args.list else ())
    found = None if endless or args.distributed else inputs.find(list(given))
    predictor = predictors.of_source(source, jax.local_devices() if args.distributed else None)
    if args.threshold is not None:
        predictor = predictor.decide_at(args.threshold)
    drawn = None if args.no_overlays or args.out == "-" else to_path(args.out)
    with closing(records.Drawer(predictor.model.config.data, drawn)) as drawer:
        if args.distributed:
            tally = _fleet(args, source.path, given, predictor, drawer)
        elif found is None:
            tally = _endless(args, predictor, drawer)
        else:
            tally = _finite(args, source.path, found, predictor, drawer)
    if processes.is_primary():
        tally.report("the standard output" if args.out == "-" else args.out)
    # A launcher takes any status but 0 for a crash, and would begin the work anew.
    unreadable = 0 if args.distributed else tally.count[UNREADABLE]
    return 1 if (tally.count["error"] if args.strict else unreadable) else 0


def _check(args: argparse.Namespace) -> bool:
    """Whether the images have no end; refuses what does not go together."""
    streamed = "-" in args.input
    if not args.input and not args.list:
        raise UserError("give --input or --list")
    if streamed and (len(args.input) > 1 or args.list or args.watch):
        raise UserError("--input -: reads paths from the standard input; give it alone")
    if args.watch and (args.list or not all(os.path.isdir(path) for path in args.input)):
        raise UserError("--watch: --input has to be folders of this machine")
    if args.threshold is not None and args.false_positive_rate is not None:
        raise UserError("give --threshold or --false-positive-rate, not both")
    if args.threshold is not None and not math.isfinite(args.threshold):
        raise UserError(f"--threshold {args.threshold}: give a number")
    if (streamed or args.watch) and args.distributed:
        raise UserError("--distributed: takes images that are all there")
    if args.distributed and args.out == "-":
        raise UserError("--distributed: --out has to be a folder that all processes see")
    if args.out.endswith(".parquet"):
        raise UserError(f"--out {args.out}: rows are written as CSV or JSON lines (--format)")
    return streamed or args.watch


def _finite(
    args: argparse.Namespace, source: Path, found: Inputs, predictor: Predictor, drawer: Drawer
) -> Tally:
    """Scores images that are all there, and writes the page."""
    from invad_jax.evaluation import new_images, records
    from invad_jax.io import names

    recorder = _recorder(args)
    if drawer.out:
        new_images.check_apart(drawer.out, found.paths, names.unique(found.names, records.PICTURE))
    results = new_images.Results(found, recorder)
    new_images.score(results, predictor, drawer)
    if args.out != "-":
        new_images.write_page(results, predictor, to_path(args.out), source, args.typed)
    return recorder.tally


def _fleet(
    args: argparse.Namespace,
    source: Path,
    given: Iterable[str],
    predictor: Predictor,
    drawer: Drawer,
) -> Tally:
    """Scores images that are all there on all processes of the job."""
    from invad_jax.config.io import config_hash
    from invad_jax.evaluation import fleet

    key = {
        "model": str(source.absolute()),
        "step": predictor.model.step,
        "config": config_hash(predictor.model.config),
        "thresholds": [one.threshold for one in predictor.calibrations.each],
        "input": args.input,
        "list": args.list,
        "format": _format(args),
        "overlays": drawer.out is not None,
        "sort_into": args.sort_into,
        "sort_by": args.sort_by,
    }
    return fleet.predict(to_path(args.out), key, given, predictor, drawer, _sorting(args))


def _endless(args: argparse.Namespace, predictor: Predictor, drawer: Drawer) -> Tally:
    """Scores what comes until the stream ends, or somebody stops it."""
    from invad_jax.evaluation import arriving, new_images
    from invad_jax.runtime.log import log

    recorder = _recorder(args)
    if args.out != "-":
        new_images.put_aside(to_path(args.out) / new_images.TABLES[_format(args)])
    arriving.warm_up(predictor)
    if args.watch:
        log.info("watching %s; Ctrl-C ends it", ", ".join(args.input))
        arrivals = arriving.Folders(args.input, predictor.model.config.data).arrivals()
    else:
        arrivals = arriving.on_stream(_lines(), predictor.model.batch_size)
    try:
        arriving.score(arrivals, recorder, drawer, predictor)
    except KeyboardInterrupt:
        if not args.watch:
            raise
    finally:
        recorder.close()
    return recorder.tally


def _lines() -> Iterable[str]:
    """The standard input; a name on a disk need not be valid UTF-8."""
    if sys.stdin is None:
        raise UserError("--input -: the standard input is closed")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin


def _recorder(args: argparse.Namespace) -> Recorder:
    """Claims what will be written."""
    from invad_jax.evaluation import new_images, records
    from invad_jax.report.tables import PredictionStream

    out, kind, sorting = (
        None if args.out == "-" else to_path(args.out),
        _format(args),
        _sorting(args),
    )
    if out:
        new_images.claim(out, kind)
    if sorting:
        sorting.claim()
    stream = PredictionStream(out / new_images.TABLES[kind] if out else sys.stdout, kind)
    return records.Recorder(stream, sorting)


def _format(args: argparse.Namespace) -> Literal["csv", "jsonl"]:
    """`--format`, or what the end of `--out` says."""
    lines = args.out == "-" or args.out.endswith(".jsonl")
    return args.format or ("jsonl" if lines else "csv")


def _sorting(args: argparse.Namespace) -> Sorting | None:
    from invad_jax.evaluation.records import Sorting

    return Sorting(to_path(args.sort_into), args.sort_by) if args.sort_into else None


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_run()
    parser.add_model()
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE_OR_FOLDER",
        help="what to score: images, folders with their subfolders, patterns; -: paths from the "
        "standard input, one a line",
    )
    parser.add_argument("--list", metavar="FILE", help="a file of such paths, one a line")
    parser.add_argument("--watch", action="store_true", help="and what comes into these folders")
    parser.in_buckets.update(("input", "list", "out", "sort_into"))
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write; -: rows alone")
    parser.add_argument("--format", choices=("csv", "jsonl"), help="of the rows")
    parser.add_argument("--no-overlays", action="store_true", help="no picture of each image")
    parser.add_argument("--threshold", type=float, help="anomalous above it, instead of its own")
    parser.add_rate("share of normal images that may be called anomalous, 0..1")
    parser.add_argument(
        "--sort-into", metavar="DIR", help="ok/, ng/ and unreadable/ there get the images"
    )
    parser.add_argument(
        "--sort-by", choices=("copy", "link"), default="copy", help="copies, or links to them"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="status 1 also if a picture or a sorted file is missing",
    )
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
