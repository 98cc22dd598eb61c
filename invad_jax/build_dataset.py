"""Writes a data set as ArrayRecord, to be read at scale by `data.name=tfds`.

    python -m invad_jax.build_dataset --layout visa --root /data/VisA --out /data/records
    python -m invad_jax.train --config configs/X.py --set data.name=tfds data.root=/data/records

A few large files take the place of many small ones. Every image and mask is kept as it is, byte by
byte, so that training and evaluation give the same numbers from either. Needs no TensorFlow.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from invad_jax.config.io import split_list
from invad_jax.data import layouts, records
from invad_jax.data.samples import SAMPLE_SETS
from invad_jax.errors import UserError, what_there_is
from invad_jax.io import files
from invad_jax.io.paths import to_path
from invad_jax.runtime import cli as command_line

LAYOUTS = sorted({*layouts.LAYOUTS, "mpdd"} - {"tfds"})  # which lies as MVTec AD does


def main(args: argparse.Namespace) -> None:
    """From a layout on disk to a folder of records."""
    build(args.layout, args.root, to_path(args.out), split_list(args.categories))
    counts = {split: len(rows) for split, rows in records.listing(args.out).items()}
    print(
        f"{args.out}: {counts.get('train', 0)} images to train on, {counts.get('test', 0)} to "
        f"test; use it with --set data.name=tfds data.root={args.out}",
        file=sys.stderr,
    )


def build(layout: str, root: str, out: Path, categories: Sequence[str] = ("all",)) -> None:
    """Writes the records, all of them or none.

    Args:
      layout: a `data.name`, or the name of a benchmark.
      root: `data.root`.
      out: a new or an empty folder.
      categories: which of them; `all` takes every one that is found.

    Raises:
      UserError: an unknown layout, a data set that is not there or wrong, or `out` is not empty.
    """
    if layout not in LAYOUTS:
        raise UserError(f"--layout {layout}: unknown{what_there_is(layout, LAYOUTS)}")
    if not root and layout not in SAMPLE_SETS:
        raise UserError("--root: give the folder (or the table) of the data set")
    from invad_jax.data.tfds_builders import BENCHMARKS, AnomalyImages

    make_builder = BENCHMARKS.get(layout, partial(AnomalyImages, layout=layout))
    with files.new_folder(out) as temporary:
        work = temporary / "tfds"
        builder = make_builder(root=root, categories=categories, data_dir=work)
        builder.download_and_prepare(download_dir=work / "downloads")
        for path in Path(builder.data_dir).iterdir():
            path.rename(temporary / path.name)
        shutil.rmtree(work)


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.in_buckets.update(("root", "out"))
    parser.add_argument("--layout", required=True, help=", ".join(LAYOUTS))
    parser.add_argument("--root", default="", metavar="DIR", help="data.root: the data set on disk")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--categories", default="all", metavar="A,B", help="default: all")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
