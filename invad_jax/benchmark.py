"""Measures how fast a detector is here, and how near that is to what the devices can do.

    python -m invad_jax.benchmark --workdir runs/hazelnut
    python -m invad_jax.benchmark --config configs/mvtec_dit.py --set denoiser.width=384 --batch 1 8
    python -m invad_jax.benchmark --config configs/mvtec_dit.py --against torch
    python -m invad_jax.benchmark --workdir runs/hazelnut --against earlier/benchmark.json

Encoder, denoiser, comparison, the whole detector and a training step, for each batch size: time,
compile time, memory, operations, and the share of the rates of matrix products and of memory that
are measured in the same run, all taken in turn. One image is timed on one device. Then the loop of
`train`, and with a workdir files to decisions; with a config alone the parameters are noise. Writes
benchmark.json, benchmark.md and benchmark.png into --out. Nothing compiled is kept or taken from
before.

`--against torch`: the same arrays in PyTorch. `--against FILE`: an earlier benchmark.json; leaves
with status 1 if a part is slower than there, and refuses one of another precision.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.io.paths import to_path
from invad_jax.runtime import cli as command_line
from invad_jax.runtime.workdir import Workdir

FILES = ("benchmark.json", "benchmark.md", "benchmark.png")


def main(args: argparse.Namespace) -> int:
    """Measures, writes and prints."""
    if min(args.batch) < 1 or args.seconds <= 0 or args.repeats < 1:
        raise UserError("--batch and --repeats: at least 1; --seconds: above 0")
    earlier = None if args.against in (None, "torch") else _earlier(args.against)
    path = command_line.workdir_of(args)
    workdir = Workdir(path) if args.workdir else None
    config = workdir.resolve(args.config, args.set) if workdir else command_line.config_of(args)
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    from invad_jax.benchmarks import plot, report, session
    from invad_jax.io import outputs
    from invad_jax.runtime import processes
    from invad_jax.runtime.log import log

    out = to_path(args.out) if args.out else path / "benchmark"
    if processes.is_primary():
        outputs.claim(out, "benchmark", FILES, trusted=not args.out)
    run = session.measure(
        config,
        workdir,
        sorted(set(args.batch)),
        args.seconds,
        args.repeats,
        args.images,
        torch=args.against == "torch",
        trace=args.trace,
    )
    if processes.is_primary():
        files.write_json(out / "benchmark.json", run)
        text = report.markdown(run)
        files.write_text(out / "benchmark.md", text)
        with files.replaced(out / "benchmark.png") as temporary:
            temporary.write_bytes(plot.png(run))
        print(text)
    slower = report.slower(earlier, run, args.tolerance) if earlier else []
    for line in slower if processes.is_primary() else []:
        log.warning("slower than %s: %s", args.against, line)
    return 1 if slower else 0


def _earlier(path: str) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads(files.read_bytes(path))
        if found["schema"] != 1 or not (found["dtype"] and isinstance(found["parts"], list)):
            raise KeyError("parts")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--against {path}: is no benchmark.json; or say torch") from error
    return found


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_run()
    parser.in_buckets.update(("out", "against"))
    parser.add_argument("--out", metavar="DIR", help="default <workdir>/benchmark")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 16], metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each part in each repeat")
    parser.add_argument("--repeats", type=int, default=5, help="rounds through all parts")
    parser.add_argument("--images", type=int, default=200, help="files that predict is timed on")
    parser.add_argument("--against", metavar="torch|FILE", help="what to compare with")
    parser.add_argument(
        "--tolerance", type=float, default=0.15, help="of --against FILE, beside the spread"
    )
    parser.add_argument("--trace", metavar="DIR", help="write a trace of one batch for XProf")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
