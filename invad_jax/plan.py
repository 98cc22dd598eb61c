"""What a TPU slice would do with an experiment, found out without one.

    pip install libtpu
    python -m invad_jax.plan --config configs/mvtec_dit.py --topology v5e:4x4 --topology v4:2x2x4

Compiles the training step, from cached latents, and the detector, from images, ahead of time, and
prints for each whether it fits the chips, what it computes and sends, and the least time that can
take. No weights, images or TPU are needed. `cpu:8` counts for 8 CPU devices instead: no libtpu, no
times.

Read next: `hlo.py` and `flops.py`, the counting; `chips.py`, the constants.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from invad_jax import cli, config_io
from invad_jax.assembly import alpha_bar_of, build_detector, init_params
from invad_jax.chips import CHIPS, GIB, Chip
from invad_jax.config import Config
from invad_jax.detector import DetectorVariables, LatentStats
from invad_jax.encoders import Encoder, describe_encoder
from invad_jax.errors import UserError
from invad_jax.files import write_text
from invad_jax.flops import count_flops
from invad_jax.hlo import Program
from invad_jax.sharding import (
    batch_sharding,
    check_batch,
    make_mesh,
    replicated,
    state_sharding,
    train_batch_sharding,
)
from invad_jax.train_step import create_state, make_denoiser_loss, make_optimizer
from invad_jax.training import compile_step

Row = dict[str, Any]
"""One program on one topology; bytes and operations are those of one device in one run."""


def main(args: argparse.Namespace) -> None:
    """Prints a table, and writes it as JSON if asked to."""
    jax.config.update("jax_platforms", "cpu")  # the TPU, if there is one, is left to others
    if not args.config or not args.topology:
        raise UserError("give --config configs/X.py and --topology, such as v5e:4x4")
    config = config_io.override(config_io.load(args.config), [a for g in args.set for a in g])
    _, encoder = describe_encoder(config.encoder, config.data.image_size)
    rows: list[Row] = []
    for topology in args.topology:
        devices, chip = topology_devices(topology)
        ours = weak(config, args.batch_per_device, len(devices))
        mesh = make_mesh(ours.mesh, devices)
        check_batch("train.batch_size", ours.train.batch_size, mesh, ours.train.grad_accumulation)
        for name, trace in (("train step", trace_train_step), ("detector", trace_detector)):
            if args.only in (None, name.split()[0]):
                print(f"compiling: {topology}, {name}", file=sys.stderr)
                row = {"topology": topology, "devices": mesh.size, "mesh": dict(mesh.shape)}
                batch = ours.train.batch_size if name == "train step" else _eval_batch(ours, mesh)
                rows.append(
                    row | {"program": name, "batch": batch} | measure(trace(ours, encoder, mesh))
                    | {"chip": chip and chip._asdict()}
                )  # fmt: skip
    for row in rows:
        row |= estimate(row)
    print(markdown(config, encoder, rows))
    if args.json:
        write_text(Path(args.json), json.dumps(rows, indent=2) + "\n")


_LIBTPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # its lock guards a TPU; compiling opens none
    "TPU_SKIP_MDS_QUERY": "1",  # no questions to a cloud's metadata server
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
}
"""Environment of the compiler, where the user has not set it."""


def topology_devices(name: str) -> tuple[list[jax.Device], Chip | None]:
    """The devices of `v5e:4x4`, which cannot run but be compiled for, or of `cpu:8`.

    Raises:
      UserError: no libtpu, an unknown chip, or a shape that it does not come in.
    """
    kind, _, shape = name.partition(":")
    if kind == "cpu":
        devices = jax.devices("cpu")
        if not shape.isdigit() or not 1 <= int(shape) <= len(devices):
            raise UserError(f"--topology {name}: expected cpu:1 to cpu:{len(devices)}")
        return devices[: int(shape)], None
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise UserError(f"--topology {name}: expected {', '.join(CHIPS)} and a shape: v5e:4x4")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology {name}: needs the TPU compiler: pip install libtpu")
    for variable, value in _LIBTPU.items():
        os.environ.setdefault(variable, value)
    chip = CHIPS[kind]
    try:
        topology = topologies.get_topology_desc(name, "tpu", **chip.topology_options)
    except Exception as error:  # jaxlib raises errors of several types
        raise UserError(f"--topology {name}: {str(error).splitlines()[0]}") from error
    return list(topology.devices), chip


def weak(config: Config, batch_per_device: int | None, devices: int) -> Config:
    """The config with a batch that grows with the devices, if asked for."""
    if batch_per_device is None:
        return config
    batch = batch_per_device * devices
    return dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, batch_size=batch),
        eval=dataclasses.replace(config.eval, batch_size=batch),
    )


def _eval_batch(config: Config, mesh: Mesh) -> int:
    return -(-config.eval.batch_size // mesh.size) * mesh.size


def _abstract(shape: Sequence[int], dtype: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)


def trace_train_step(config: Config, encoder: Encoder, mesh: Mesh) -> Any:
    """The step that `train` would compile, traced for a mesh of any devices."""
    tx, shape = make_optimizer(config.train), encoder.latent_shape
    channels = jax.ShapeDtypeStruct(shape[-1:], np.float32)

    def create(rng: jax.Array, frozen: LatentStats) -> Any:
        return create_state(init_params(config, shape, rng), frozen, rng, tx)

    state = jax.eval_shape(create, jax.random.key(0), LatentStats(channels, channels))  # type: ignore[arg-type]
    shardings = state_sharding(state, mesh)
    loss_fn = make_denoiser_loss(
        build_detector(config, encoder).denoise, jnp.asarray(alpha_bar_of(config), jnp.float32)
    )
    step: Any = compile_step(config.train, loss_fn, tx, mesh, shardings)
    latent = _abstract((config.train.batch_size, *shape), np.float32, train_batch_sharding(mesh))
    state = jax.tree.map(lambda a, s: _abstract(a.shape, a.dtype, s), state, shardings)
    return step.trace(state, {"latent": latent})


def trace_detector(config: Config, encoder: Encoder, mesh: Mesh) -> Any:
    """The detector that `eval` would compile: parameters on every device, the batch split."""
    detector, (_, _, channels) = build_detector(config, encoder), encoder.latent_shape
    per_channel = jax.ShapeDtypeStruct((channels,), np.float32)
    params = jax.eval_shape(partial(init_params, config, encoder.latent_shape), jax.random.key(0))
    variables = DetectorVariables(
        encoder.variables,
        params,
        LatentStats(per_channel, per_channel),  # type: ignore[arg-type]
    )
    size = config.data.image_size
    arguments = (
        jax.tree.map(lambda a: _abstract(a.shape, a.dtype, replicated(mesh)), variables),
        _abstract((_eval_batch(config, mesh), size, size, 3), np.uint8, batch_sharding(mesh)),
    )
    return jax.jit(detector.predict, out_shardings=replicated(mesh)).trace(*arguments)


def measure(traced: Any) -> Row:
    """Compiles a traced program and counts; `needs` alone if it is too large to compile."""
    flops = count_flops(traced.jaxpr)
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", str(error))
        if used is None:
            raise
        scale = dict(zip("KMGT", (2**10, 2**20, 2**30, 2**40), strict=True))
        return {"flops_all_devices": flops, "bytes": float(used[1]) * scale[used[2]]}
    memory, program = compiled.memory_analysis(), Program(compiled.as_text())
    return {
        "flops_all_devices": flops,
        "arguments": memory.argument_size_in_bytes,
        "bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes
        + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "memory_traffic": program.memory_bytes(),
        "collectives": {k: t._asdict() for k, t in program.collectives().items()},
    }  # fmt: skip


def estimate(row: Row) -> Row:
    """Least seconds for products, memory and links, and whether the program fits."""
    sent = sum(traffic["bytes"] for traffic in row.get("collectives", {}).values())
    result: Row = {"flops": row["flops_all_devices"] / row["devices"], "sent": sent}
    if row["chip"] is None:
        return result
    chip = Chip(**row["chip"])
    result["fits"] = row["bytes"] <= chip.memory and "arguments" in row
    if "arguments" in row:
        result["seconds"] = {
            "compute": result["flops"] / chip.peak_flops,
            "memory": row["memory_traffic"] / chip.memory_bandwidth,
            "links": sent / chip.link_bandwidth,
        }
    return result


def markdown(config: Config, encoder: Encoder, rows: list[Row]) -> str:
    """The table, what it says of collectives, and what it assumes."""
    params = jax.eval_shape(partial(init_params, config, encoder.latent_shape), jax.random.key(0))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    lines = [
        f"{config.denoiser.name}, {count / 1e6:,.1f} M parameters, latents {encoder.latent_shape}, "
        f"denoiser.dtype={config.denoiser.dtype}, remat={config.denoiser.remat}, "
        f"train.grad_accumulation={config.train.grad_accumulation}",
        "",
        "| topology | data x fsdp x tensor | program | batch | GiB a device | fits "
        "| TFLOP a device | GB of HBM traffic | GB sent | compute, HBM, links: ms | at least ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        times = [1e3 * seconds for seconds in row.get("seconds", {}).values()]
        memory = f" of {row['chip']['memory'] / GIB:.0f}" if row["chip"] else ""
        lines.append("| " + " | ".join((
            row["topology"], " x ".join(map(str, row["mesh"].values())), row["program"],
            str(row["batch"]), f"{row['bytes'] / GIB:.2f}{memory}",
            {True: "yes", False: "no"}.get(row.get("fits", ""), "-"), f"{row['flops'] / 1e12:.3g}",
            f"{row['memory_traffic'] / 1e9:.3g}" if "memory_traffic" in row else "-",
            f"{row['sent'] / 1e9:.3g}" if "collectives" in row else "-",
            ", ".join(f"{t:.3g}" for t in times) or "-", f"{max(times):.3g}" if times else "-",
        )) + " |")  # fmt: skip
    lines += ["", "| topology | program | collective | count | GB sent a device | types |",
              "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for row in rows:
        for kind, traffic in row.get("collectives", {}).items():
            lines.append(
                f"| {row['topology']} | {row['program']} | {kind} | {traffic['times']} | "
                f"{traffic['bytes'] / 1e9:.3g} | {', '.join(traffic['dtypes'])} |"
            )
        if not row.get("collectives"):
            lines.append(f"| {row['topology']} | {row['program']} | none | 0 | 0 | - |")
    return "\n".join([*lines, "", _ASSUMPTIONS.strip()])


_ASSUMPTIONS = """
Bytes are XLA's: arguments + temporaries + outputs - what outputs share with arguments. FLOPs are
those of all products and convolutions, recomputation included, divided by the devices. Traffic and
collectives are counted in the compiled program, loops as often as they run; a collective of n
devices is taken as a ring, which sends (n - 1) / n of an array, twice for an all-reduce. The least
time is the largest of three: products at the bfloat16 peak (which the TPU's default precision uses
for float32 too), HBM traffic and sent bytes each at full bandwidth, all perfectly overlapped.
"""


def run(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--config", metavar="FILE", help="configs/X.py")
    parser.add_argument(
        "--set", action="append", nargs="+", default=[], metavar="section.option=value",
        help="change one option of the config; may be given many times",
    )  # fmt: skip
    parser.add_argument(
        "--topology", action="append", default=[], metavar="CHIP:SHAPE",
        help=f"{', '.join(CHIPS)} and a shape in chips, such as v5e:4x4; may be given many times",
    )  # fmt: skip
    parser.add_argument(
        "--batch-per-device", type=int, metavar="N",
        help="a batch that grows with the devices (weak scaling) instead of the config's",
    )  # fmt: skip
    parser.add_argument("--only", choices=("train", "detector"), help="one of the two programs")
    parser.add_argument("--json", metavar="FILE", help="write every number there, too")
    return cli.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(run())
