"""What a TPU slice would do with an experiment, found out without one.

    pip install libtpu
    python -m invad_jax.plan --config configs/mvtec_dit.py --topology v5e:4x4 --topology v4:2x2x4

Compiles the training step, from cached latents, and the detector, from images, ahead of time, and
prints for each whether it fits the chips, what it computes and sends, and the least time that can
take. No weights, images or TPU are needed. `cpu:8` counts for 8 CPU devices instead: no libtpu, no
times. `2*v5e:4x4` are two slices; what goes from one to the other is stated apart.

Read next: `planning/programs.py`, what is compiled; `planning/tpus.py`, the constants.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from invad_jax.errors import UserError
from invad_jax.io.files import write_text
from invad_jax.planning.tpus import CHIPS
from invad_jax.runtime import cli as command_line

MOST_CPUS = 1024
"""That `cpu:N` makes of one."""


def main(args: argparse.Namespace) -> None:
    """Prints a table, and writes it as JSON if asked to."""
    if not args.config or not args.topology:
        raise UserError("give --config configs/X.py and --topology, such as v5e:4x4")
    config = command_line.config_of(args)
    counts = [name.removeprefix("cpu:") for name in args.topology if name.startswith("cpu:")]
    most = max([1, *(int(count) for count in counts if count.isdecimal())])
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(min(most, MOST_CPUS)))
    import jax

    from invad_jax.data import masks
    from invad_jax.encoders import describe_encoder
    from invad_jax.planning.estimate import estimate, markdown
    from invad_jax.planning.programs import (
        Row,
        detector_batch,
        measure,
        trace_detector,
        trace_train_step,
        weak,
    )
    from invad_jax.planning.topologies import topology_devices
    from invad_jax.runtime.sharding import check_batch, make_mesh

    jax.config.update("jax_platforms", "cpu")  # the TPU, if there is one, is left to others
    _, encoder = describe_encoder(
        config.encoder, config.data.image_size, config.tiling, masks.read_region(config.data)
    )
    rows: list[Row] = []
    for topology in args.topology:
        devices, chip = topology_devices(topology)
        ours = weak(config, args.batch_per_device, len(devices))
        mesh = make_mesh(ours.mesh, devices)
        check_batch(ours.train, mesh)
        for name, trace in (("train step", trace_train_step), ("detector", trace_detector)):
            if args.only in (None, name.split()[0]):
                print(f"compiling: {topology}, {name}", file=sys.stderr)
                row = {"topology": topology, "devices": mesh.size, "mesh": dict(mesh.shape)}
                batch = ours.train.batch_size
                if name == "detector":
                    batch = detector_batch(ours, encoder, mesh)
                rows.append(
                    row
                    | {"program": name, "batch": batch}
                    | measure(trace(ours, encoder, mesh))
                    | {"chip": chip and chip._asdict()}
                )
    for row in rows:
        row |= estimate(row)
    print(markdown(config, encoder, rows))
    if args.json:
        write_text(args.json, json.dumps(rows, indent=2) + "\n")


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_config()
    parser.add_argument(
        "--topology",
        action="append",
        default=[],
        metavar="CHIP:SHAPE",
        help=f"{', '.join(CHIPS)} and a shape in chips, such as v5e:4x4, of two slices 2*v5e:4x4; "
        "may be given many times",
    )
    parser.add_argument(
        "--batch-per-device",
        type=int,
        metavar="N",
        help="a batch that grows with the devices (weak scaling) instead of the config's",
    )
    parser.add_argument("--only", choices=("train", "detector"), help="one of the two programs")
    parser.in_buckets.add("json")
    parser.add_argument("--json", metavar="FILE", help="write every number there, too")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
