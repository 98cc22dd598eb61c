"""Evaluates a trained detector on its test set: every metric, every score, pictures, a page.

    python -m invad_jax.eval --config configs/hazelnut.py
    python -m invad_jax.eval --workdir runs/hazelnut --set inversion.num_steps=5 --out /tmp/five

Leaves with status 0, or 1 if some test images could not be read: they are named and left out.

Read next: `detector.py`, the method itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from invad_jax.errors import UserError
from invad_jax.io.paths import is_remote, to_path
from invad_jax.runtime import cli as command_line
from invad_jax.runtime.workdir import Workdir


def main(args: argparse.Namespace) -> int:
    """From a workdir to `metrics.json`, the tables and the pictures."""
    workdir = Workdir(command_line.workdir_of(args))
    config = workdir.resolve(args.config, args.set)
    from invad_jax.data import layouts
    from invad_jax.encoders import kept
    from invad_jax.evaluation import results
    from invad_jax.evaluation.evaluate import evaluate
    from invad_jax.evaluation.speed import measure_speed
    from invad_jax.inference.calibrate import Normals, calibrate
    from invad_jax.inference.kept import normal_scores, read_scores
    from invad_jax.inference.load import load_model
    from invad_jax.io import outputs
    from invad_jax.runtime import processes

    dataset = layouts.load_dataset(config.data)
    if not dataset.test:
        raise UserError(f"data.root={config.data.root}: has no test images; use predict")
    out = to_path(args.out) if args.out else workdir.path / "eval"
    if processes.is_primary():
        outputs.claim(out, "eval", results.FILES, trusted=not args.out)
    trained_on = workdir.trained_on(config.data)
    same = dataset if trained_on == config.data else None

    def normals() -> Normals:
        train = (same or layouts.load_dataset(trained_on)).train
        return layouts.hold_out(train, config.data.holdout_fraction)

    model = load_model(workdir, config)
    calibrations = calibrate(model, workdir, normals)

    evaluation = evaluate(
        model, calibrations, dataset.test, Path(tempfile.gettempdir()) if is_remote(out) else out
    )
    paths = [sample.path for sample in evaluation.samples]
    speed = None if args.no_speed else measure_speed(model, paths)
    if processes.is_primary():
        if not (workdir.encoder / kept.SOURCE).is_file():  # of a converted model
            kept.keep(config.encoder, workdir.encoder)
        known = normal_scores(calibrations, read_scores(workdir, model) or {})
        results.write(
            out,
            workdir.path,
            args.typed,
            model,
            calibrations,
            evaluation,
            known,
            speed,
            args.save_maps,
        )
    return 1 if evaluation.unreadable else 0


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_run()
    parser.add_argument("--out", metavar="DIR", help="default <workdir>/eval")
    parser.in_buckets.add("out")
    parser.add_argument("--save-maps", action="store_true", help="also write every anomaly map")
    parser.add_argument("--no-speed", action="store_true", help="leave out the two clocks of 2 s")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
