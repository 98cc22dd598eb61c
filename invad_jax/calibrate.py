"""Sets the thresholds by the line's own good images, and says whether those of today are like them.

    python -m invad_jax.calibrate --workdir runs/part --normal good/ --false-positive-rate 0.05
    python -m invad_jax.calibrate --model part.invad --normal good/ --out line.invad
    python -m invad_jax.calibrate --workdir runs/part --check good_ones_of_today/

Nothing is trained: what images are compared with stays. `--undo` goes back to the calibration of
the training. Leaves with status 0; after --check with 1 if something has moved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from invad_jax.errors import UserError
from invad_jax.io.paths import to_path
from invad_jax.runtime import cli as command_line
from invad_jax.runtime.workdir import Workdir

if TYPE_CHECKING:
    from invad_jax.inference.predictor import Predictor
    from invad_jax.inference.recalibrate import Scored
    from invad_jax.normality.calibrations import Calibrations


def main(args: argparse.Namespace) -> int:
    """From good images to thresholds, or to what has moved."""
    source = command_line.source_of(args)
    workdir = Workdir(source.path) if source.config else None
    _check(args, of_file=workdir is None)
    from invad_jax.data import inputs

    folder = args.normal or args.check or []
    found = inputs.find(folder, "--check" if args.check else "--normal") if folder else None
    from invad_jax.inference import predictor as predictors
    from invad_jax.inference import recalibrate
    from invad_jax.inference.bundle import BundleModel

    predictor = predictors.of_source(source)
    model = predictor.model
    if found is None:
        recalibrate.undo(predictor.trained, Workdir(source.path))
        print(f"{source.path}: has the calibration of its training again")
        return 0
    usable = [path for row, path in enumerate(found.paths) if row not in found.unusable]
    new = recalibrate.score(model, recalibrate.not_trained_on(predictor.normals, usable))
    if args.check:
        return _compare(predictor, workdir, new)
    new = recalibrate.of_enough(new)
    if isinstance(model, BundleModel):
        fitted = recalibrate.in_bundle(model, new, to_path(args.out))
    else:
        fitted = recalibrate.in_workdir(model, Workdir(source.path), new)
        if args.false_positive_rate is not None:
            Workdir(source.path).keep_rate(args.false_positive_rate)
    _report(fitted, set(new.component), args.out or str(source.path))
    return 0


def _check(args: argparse.Namespace, of_file: bool) -> None:
    if sum(map(bool, (args.normal, args.check, args.undo))) != 1:
        raise UserError("give one of --normal FOLDER, --check FOLDER and --undo")
    if args.undo and of_file:
        raise UserError("--undo: of a workdir; the bundle that was calibrated is still there")
    if bool(args.out) != bool(of_file and args.normal):
        raise UserError("--out FILE: goes with --model FILE --normal FOLDER, which needs it")


def _compare(predictor: Predictor, workdir: Workdir | None, new: Scored) -> int:
    from invad_jax.inference import kept, recalibrate

    profile = kept.read_profile(workdir, predictor.trained) if workdir else None
    found = recalibrate.compare(predictor.calibrations, predictor.normals, profile, new)
    for name, findings in found.items():
        if name:
            print(f"{name}:")
        for finding in findings:
            print(f"{'! ' if finding.moved else '  '}{finding.text}")
    moved = any(finding.moved for findings in found.values() for finding in findings)
    if moved:
        print(
            "something has moved: look at light, focus and position; if these parts are good and "
            "will stay like this, calibrate with --normal"
        )
    return int(moved)


def _report(fitted: Calibrations, kinds: set[str], where: str) -> None:
    from invad_jax.normality import promise

    for name, one in fitted:
        of = f"{name}: " if name else ""
        if name not in kinds:
            print(f"{of}as before, of {one.num_normals} images: too few of it in --normal, or none")
            continue
        print(f"{of}threshold {one.threshold:.3f}, by {one.num_normals} normal images")
        print(f"  {promise.promise(one)}")
    print(f"written to {where}")


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_run(distributed=False)
    parser.add_model()
    parser.in_buckets.update(("normal", "check", "out"))
    for option, help in [
        ("--normal", "good images, by which the thresholds are set"),
        ("--check", "good images, to be compared with those of the calibration"),
    ]:
        parser.add_argument(option, nargs="+", metavar="FOLDER", help=help)
    parser.add_argument("--undo", action="store_true", help="back to the training's calibration")
    parser.add_argument("--out", metavar="FILE", help="the bundle to write, of --model FILE")
    parser.add_rate("share of normal images that may be called anomalous, 0..1, from now on")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
