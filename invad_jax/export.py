"""Writes a trained detector as one file, and checks such a file where it is to run.

    python -m invad_jax.export --workdir runs/hazelnut --out hazelnut.invad
    python -m invad_jax.export --validate hazelnut.invad

The file takes uint8 images of any size and gives score, decision and map: encoder, coordinates,
network, calibration and threshold are inside, for CPU, CUDA and TPU, and nothing is pickled.
`predict --model` and `invad_jax.load` take it like a workdir. A machine with jax and numpy alone
scores by the loader that is packed with it: `unzip hazelnut.invad loader.py`.

Leaves with status 0, or 1 if the detector does not do here what it did where it was exported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from invad_jax.errors import UserError
from invad_jax.io.paths import to_path
from invad_jax.runtime import cli as command_line
from invad_jax.runtime.workdir import Workdir


def main(args: argparse.Namespace) -> int:
    """From a workdir to a bundle, or from a bundle to what it does here."""
    if bool(args.validate) == bool(args.out or args.onnx):
        raise UserError("give --workdir DIR --out FILE, or --validate FILE")
    if args.no_photographs and not args.out:
        raise UserError("--no-photographs: goes with --out FILE")
    if not args.validate:
        _pack(args)
    path = args.validate or args.out
    if not path:
        return 0
    from invad_jax.evaluation import validation

    model, found = validation.validate(to_path(path))
    print("\n".join(validation.lines(model, found)))
    return 0 if found.holds else 1


def _pack(args: argparse.Namespace) -> None:
    workdir = Workdir(command_line.workdir_of(args))
    config = workdir.resolve(args.config, args.set)
    for option, path in (("--out", args.out), ("--onnx", args.onnx)):
        if path and to_path(path).is_dir():
            raise UserError(f"{option} {path}: is a folder; give a file, such as part.invad")
    from invad_jax.inference.packing import pack

    out, onnx_out = (to_path(path) if path else None for path in (args.out, args.onnx))
    pack(workdir, config, out, onnx_out, not args.no_photographs)


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_run(distributed=False)
    parser.in_buckets.update(("out", "onnx", "validate"))
    parser.add_argument("--out", metavar="FILE", help="the bundle to write; usually *.invad")
    parser.add_argument(
        "--onnx", metavar="FILE", help="the same for other runtimes (docs/export.md)"
    )
    parser.add_argument(
        "--no-photographs", action="store_true", help="none of the normal images in the bundle"
    )
    parser.add_argument("--validate", metavar="FILE", help="a bundle to check and time, instead")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
