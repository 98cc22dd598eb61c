"""One table over a grid of options and seeds: models trained once, every point evaluated.

    python -m invad_jax.sweep --config configs/X.py --seeds 0,1,2 \\
        --over inversion.num_steps=1,3,10 --over inversion.paradigm=inversion,reconstruction

An option that decides what is trained gets a model for each value (`OUT/runs/...`, trained by the
`train` command, which is printed); the others are evaluated on the same model. Points that differ
in nothing that they use are one point. With --workdir a model that is trained already, on a pod for
instance, is evaluated in all ways; --distributed does it there. The table has beside the calibrated
score and the paper's (`test_minmax`) each of its terms alone. Starting it again with the same
command continues: what is trained or evaluated is not done again (OUT/points keeps results; delete
it after changing code, and after training or calibrating the model of --workdir anew).

Writes OUT/sweep.csv (every metric, seed and category, 0..1), sweep.md and sweep.png. Sweeps of one
base may share OUT, each with its own `--name` in place of `sweep`: they share models and points.
Read next: `sweeps/grid.py`, what the grid consists of; `sweeps/table.py`, what is made of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cache, lru_cache
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from invad_jax.config import TERMS, Config, DataConfig
from invad_jax.config import io as config_io
from invad_jax.data import layouts, preprocess
from invad_jax.data.layouts import Sample
from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.io.paths import to_path
from invad_jax.normality import calibration as calibration_lib
from invad_jax.runtime import cli as command_line
from invad_jax.runtime import locks
from invad_jax.runtime.log import log
from invad_jax.runtime.workdir import Workdir
from invad_jax.sweeps import table as sweep_table
from invad_jax.sweeps.grid import Cell, make_cells, parse_axes, parse_seeds

if TYPE_CHECKING:
    from invad_jax.evaluation.ground_truth import GroundTruth
    from invad_jax.inference.calibrate import Normals
    from invad_jax.inference.model import Model


class Data(NamedTuple):
    """The images of a `DataConfig`."""

    normals: Normals
    test: tuple[Sample, ...]
    identity: tuple[str, str]
    """Of the normal images, and of the test images and their masks, in their categories."""


def main(args: argparse.Namespace) -> int:
    """From a grid to its table; 0 also where it was asked to stop."""
    trained = Workdir(to_path(args.workdir)) if args.workdir else None
    base = trained.resolve(args.config, args.set) if trained else command_line.config_of(args)
    axes = parse_axes(args.over, base)
    cells = make_cells(base, axes, parse_seeds(args.seeds, base))
    if trained:
        cells = _of_one(trained, base, cells)
    name = Path(args.config).stem if args.config else trained.path.name if trained else ""
    out = to_path(args.out) if args.out else Path("runs") / f"sweep_{name}"
    pending: dict[str, list[Cell]] = {}
    for cell in cells:
        if not _first_says(args, _point_file(out, cell).is_file()):
            pending.setdefault(cell.run, []).append(cell)
    workdirs = {run: trained or Workdir(out / "runs" / run) for run in pending}
    if not trained:
        _check([axis.name for axis in axes], pending, out)
    busy = "another sweep, or a training that one started, is at work there"
    first = _is_first(args)
    # Trainings inherit the hold: one that outlives a killed sweep keeps it.
    with locks.alone(out, busy) if first else nullcontext(0) as lock:
        # No device is touched before the last training: many can serve one process only.
        for run, of_run in pending.items():
            if not trained and not _train(args, of_run[0], workdirs[run], lock):
                print("stopped; the same command continues", file=sys.stderr)
                return 0
        for run, of_run in pending.items():
            _evaluate(of_run, out, workdirs[run])
        if not first:
            return 0
        names = [axis.name for axis in axes]
        results = [files.read_json(_point_file(out, cell)) for cell in cells]
        sweep_table.write(out / args.name, names, cells, results, args.typed)
    print(files.read_bytes(out / f"{args.name}.md").decode(), end="")
    return 0


def _is_first(args: argparse.Namespace) -> bool:
    """Whether this process writes; alone it is, and no device is asked."""
    if not args.distributed:
        return True
    from invad_jax.runtime import processes

    return processes.is_primary()


def _first_says(args: argparse.Namespace, flag: bool) -> bool:
    """The flag of the first process, which others may see later on a shared disk."""
    if not args.distributed:
        return flag
    from invad_jax.runtime import processes

    return processes.primary_says(flag)


def _of_one(trained: Workdir, base: Config, cells: Sequence[Cell]) -> list[Cell]:
    """The cells as ways to evaluate one model, whose results are kept under its place.

    Raises:
      UserError: some need another model.
    """
    others = [cell for cell in cells if len(cell.training) > 1 or cell.seed != base.train.seed]
    if others:
        raise UserError(
            f"--workdir {trained.path}: is one model, and {others[0].run} takes another; leave "
            "--workdir out, and a model of each is trained"
        )
    place = hashlib.sha256(str(trained.path.absolute()).encode()).hexdigest()[:8]
    return [dataclasses.replace(cell, run=f"{trained.path.name}-{place}") for cell in cells]


def _check(names: Sequence[str], pending: Mapping[str, Sequence[Cell]], out: Path) -> None:
    """Raises UserError for a point whose network cannot be, before any is trained."""
    runs = {run: Workdir(out / "runs" / run) for run in pending}
    if all(runs[run].has_step(of_run[0].config.train.num_steps) for run, of_run in pending.items()):
        return
    cells = itertools.chain.from_iterable(pending.values())
    unlike = {config_io.assign(cell.config, ["train.seed=0"]): cell for cell in cells}
    if len(unlike) == 1:  # is checked by its own training
        return
    from invad_jax.inference.shapes import first_misfit

    number, reason = first_misfit(list(unlike))
    if reason:
        values = zip(names, list(unlike.values())[number].values, strict=True)
        point = " ".join(f"{name}={value}" for name, value in values if value is not None)
        raise UserError(f"{reason} (--over {point})")


def _train(args: argparse.Namespace, cell: Cell, workdir: Workdir, lock: int) -> bool:
    """Runs the `train` command unless it has nothing left to do; whether it came to its end.

    Raises:
      UserError: the folder holds another model, or the training failed.
    """
    if workdir.config.is_file():
        differences = config_io.frozen_differences(
            workdir.adopt(cell.config), workdir.read_config()
        )
        if differences:
            raise UserError(
                f"{workdir.path}: was trained with another config: {'; '.join(differences)}; "
                "give another --out"
            )
    last = cell.config.train.num_steps
    if workdir.has_step(last):
        return True
    if args.distributed:
        raise UserError(
            f"{workdir.path}: is not trained, which several processes of a sweep cannot do; train "
            "before, and give --workdir"
        )
    arguments = ["--config", args.config, "--workdir", str(workdir.path)]
    arguments += ["--set", *args.set, *cell.training]
    command = ["-m", "invad_jax.train", *arguments]
    from invad_jax.runtime.stop_signal import StopSignal

    with StopSignal() as stop:
        print(f"$ python {shlex.join(command)}", file=sys.stderr, flush=True)
        process = subprocess.Popen([sys.executable, *command], pass_fds=[lock])
        while process.poll() is None and not stop.requested:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
        if stop.requested:
            process.terminate()  # it saves and leaves
        if process.wait() and not stop.requested:
            raise UserError(f"{workdir.path}: its training failed; its own message is above")
    return workdir.has_step(last)


def _evaluate(cells: Sequence[Cell], out: Path, workdir: Workdir) -> None:
    """Evaluates points of one model: loaded once, each test image encoded once."""
    from invad_jax.inference.load import load_model, with_options
    from invad_jax.runtime import processes

    loaded: dict[bool, Model] = {}
    for cell in cells:
        config = workdir.adopt(cell.config)
        use_ema = config.inversion.use_ema
        if use_ema not in loaded:
            loaded[use_ema] = load_model(workdir, config)
            _require_made_of(loaded[use_ema], workdir, cell.config.data)
        model = with_options(loaded[use_ema], workdir, config)
        result = {
            "key": _key(cell),
            "nfe": model.paradigm.nfe,
            "fusion": _measure(model, workdir, _data(cell.config.data)),
            "date": datetime.date.today().isoformat(),
            "device": "{count} x {kind} ({platform})".format(**processes.device_summary()),
        }
        if processes.is_primary():
            files.write_json(_point_file(out, cell), result)
            print(f"evaluated {cell.run}: {sweep_table.summary(cell, result)}", file=sys.stderr)


def _require_made_of(model: Model, workdir: Workdir, data: DataConfig) -> None:
    """Raises UserError where a model was trained on other images than there are now."""
    trained = dataclasses.replace(data, categories=workdir.read_config().data.categories)
    normals = layouts.load_dataset(trained).train
    now = layouts.fingerprint(layouts.hold_out(normals, data.holdout_fraction)[0])
    if model.made_of.get("dataset") not in (None, now):
        raise UserError(
            f"{workdir.path}: was trained on other images than data.root={data.root} has now; "
            "give another --out, or the data.root of then"
        )


def _measure(model: Model, workdir: Workdir, data: Data) -> dict[str, Any]:
    """What `eval` measures, and each term of the score alone; nothing is drawn or timed."""
    import numpy as np

    from invad_jax.inference.calibrate import calibrate
    from invad_jax.inference.encode import encode_samples
    from invad_jax.inference.predictions import is_finite

    calibrations = calibrate(model, workdir, lambda: data.normals)
    readable = _readable(data.test, model.config.data)
    latents = encode_samples(readable, model.encoder, model.config, model.mesh)
    scores = model.judge_latents(np.asarray(latents))
    rows = is_finite(scores)
    if not rows.any():
        raise UserError(f"{workdir.path}: no test image has a finite score")
    test = tuple(compress(readable, rows))
    for sample in compress(readable, ~rows):
        log.warning("left out: %s: has no finite score", sample.path)
    terms = {name: np.asarray(getattr(scores, name), np.float64)[rows] for name in TERMS}
    categories = [sample.category for sample in test]
    image_score = {
        "calibrated": calibrations.image_score(terms, np.asarray(scores.component)[rows]),
        "test_minmax": calibration_lib.test_minmax(terms["nll"], terms["map_range"], categories),
        **terms,
    }
    truth = _truth(test, model.config.data)
    from invad_jax.evaluation import ground_truth

    return ground_truth.metric_tables(truth, np.asarray(scores.latent_norm)[rows], image_score)[0]


@cache
def _data(cfg: DataConfig) -> Data:
    dataset = layouts.load_dataset(cfg)
    if not dataset.test:
        raise UserError(f"data.root={cfg.root}: has no test images to evaluate on")
    normals = layouts.hold_out(dataset.train, cfg.holdout_fraction)
    return Data(normals, dataset.test, (_identity(dataset.train), _identity(dataset.test)))


@lru_cache(maxsize=1)
def _readable(samples: tuple[Sample, ...], data: DataConfig) -> tuple[Sample, ...]:
    """Those of them that can be read; the others are named."""
    reasons = [preprocess.why_unreadable(sample.path, data) for sample in samples]
    for reason in filter(None, reasons):
        log.warning("left out: %s", reason)
    if all(reasons):
        raise UserError(f"data.root={data.root}: none of {len(samples)} test images can be read")
    return tuple(s for s, reason in zip(samples, reasons, strict=True) if not reason)


def _identity(samples: Sequence[Sample]) -> str:
    """As `fingerprint`, which does not know categories."""
    by_category: dict[str, list[Sample]] = {}
    for sample in samples:
        by_category.setdefault(sample.category, []).append(sample)
    lines = sorted(f"{name} {layouts.fingerprint(some)}" for name, some in by_category.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@lru_cache(maxsize=1)
def _truth(samples: tuple[Sample, ...], data: DataConfig) -> GroundTruth:
    """Of the data set last asked for: a byte a pixel."""
    from invad_jax.evaluation import ground_truth

    return ground_truth.read(samples, data)


def _key(cell: Cell) -> dict[str, Any]:
    """All that the metrics of a point depend on."""
    normals, test = _data(cell.config.data).identity
    return {"config": config_io.to_dict(cell.config), "normals": normals, "test": test}


def _point_file(out: Path, cell: Cell) -> Path:
    """Named by its content's key, so that no stale result is ever taken for this one."""
    text = json.dumps(_key(cell), sort_keys=True)
    return out / "points" / cell.run / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_run(workdir="a trained one, whose config is the base; else --config, and trainings")
    parser.in_buckets.add("out")
    parser.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="section.option=A,B,...",
        help="values of one option; a list stands in brackets; may be given many times, and the "
        "first is the plot's horizontal axis",
    )
    parser.add_argument("--seeds", metavar="0,1,...", help="of training; default the config's own")
    parser.add_argument("--out", metavar="DIR", help="default runs/sweep_X")
    parser.add_argument("--name", default="sweep", help="of the table's files; default %(default)s")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
