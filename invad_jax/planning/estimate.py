"""Least seconds of a program on a chip, and the table of `plan`."""

from __future__ import annotations

import math

import jax

from invad_jax.config import Config
from invad_jax.encoders import Encoder
from invad_jax.inference.assembly import abstract_params
from invad_jax.planning.hlo import BETWEEN_SLICES
from invad_jax.planning.programs import Row
from invad_jax.planning.tpus import GIB, Chip
from invad_jax.report.tables import markdown_table

PROGRAM_COLUMNS = (
    "topology",
    "data x fsdp x tensor",
    "program",
    "batch",
    "GiB a device",
    "fits",
    "TFLOP a device",
    "GB of HBM traffic",
    "GB sent",
    "compute, HBM, links: ms",
    "at least ms",
)
COLLECTIVE_COLUMNS = ("topology", "program", "collective", "count", "GB sent a device", "types")

_ASSUMPTIONS = """
Bytes are XLA's: arguments + temporaries + outputs - what outputs share with arguments. FLOPs are
those of all products and convolutions, recomputation included, divided by the devices. Traffic and
collectives are counted in the compiled program, loops as often as they run; a collective of n
devices is taken as a ring, which sends (n - 1) / n of an array, twice for an all-reduce. What goes
to other slices is no part of GB sent, nor of the times: how fast that network is, is not known
here. The least time is the largest of three: products at the bfloat16 peak (which the TPU's default
precision uses for float32 too, in training; a detector in float32 takes several passes), HBM
traffic and sent bytes each at full bandwidth, all perfectly overlapped.
"""


def estimate(row: Row) -> Row:
    """Least seconds for products, memory and links, and whether the program fits."""
    collectives = row.get("collectives", {})
    sent = sum(t["bytes"] for kind, t in collectives.items() if kind != BETWEEN_SLICES)
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
    params = abstract_params(config, encoder.latent_shape)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    about = (
        f"{config.denoiser.name}, {count / 1e6:,.1f} M parameters, latents {encoder.latent_shape}, "
        f"denoiser.dtype={config.denoiser.dtype}, remat={config.denoiser.remat}, "
        f"train.grad_accumulation={config.train.grad_accumulation}"
    )
    programs = markdown_table(PROGRAM_COLUMNS, map(_program, rows))
    sent = [line for row in rows for line in _collectives(row)]
    collectives = markdown_table(COLLECTIVE_COLUMNS, sent)
    return "\n".join([about, "", *programs, "", *collectives, "", _ASSUMPTIONS.strip()])


def _program(row: Row) -> tuple[str, ...]:
    """The cells of a program."""
    times = [1e3 * seconds for seconds in row.get("seconds", {}).values()]
    memory = f" of {row['chip']['memory'] / GIB:.0f}" if row["chip"] else ""
    return (
        row["topology"],
        " x ".join(map(str, row["mesh"].values())),
        row["program"],
        str(row["batch"]),
        f"{row['bytes'] / GIB:.2f}{memory}",
        {True: "yes", False: "no"}.get(row.get("fits", ""), "-"),
        f"{row['flops'] / 1e12:.3g}",
        f"{row['memory_traffic'] / 1e9:.3g}" if "memory_traffic" in row else "-",
        f"{row['sent'] / 1e9:.3g}" if "collectives" in row else "-",
        ", ".join(f"{t:.3g}" for t in times) or "-",
        f"{max(times):.3g}" if times else "-",
    )


def _collectives(row: Row) -> list[tuple[str, ...]]:
    """The cells of each kind of message of a program."""
    of = row["topology"], row["program"]
    return [
        (*of, kind, str(t["times"]), f"{t['bytes'] / 1e9:.3g}", ", ".join(t["dtypes"]))
        for kind, t in row.get("collectives", {}).items()
    ] or [(*of, "none", "0", "0", "-")]
