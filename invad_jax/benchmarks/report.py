"""The numbers of a run as tables, and two runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from invad_jax.benchmarks.clock import summary
from invad_jax.benchmarks.parts import Part
from invad_jax.errors import UserError

Row = dict[str, Any]


def row(part: Part, repeats: Sequence[Sequence[float]], rates: Mapping[str, float]) -> Row:
    """One program: its times, and its share of what the devices can do.

    Args:
      part: the program.
      repeats: seconds.
      rates: `matrix_product` FLOP/s and `stream` bytes/s of all devices, measured beside it.
    """
    times = summary(repeats)
    seconds = times["p50_ms"] / 1e3
    return {
        "part": part.name,
        "batch": part.batch,
        **times,
        "images_per_second": round(part.batch / seconds, 2),
        "compile_s": round(part.compile_seconds, 2),
        "peak_mb": round(part.peak_bytes / 1e6, 1),
        "gflop": part.flops / 1e9,
        "gflops": round(part.flops / seconds / 1e9, 1),
        "share_of_products": round(part.flops / seconds / rates["matrix_product"], 3),
        "gb_moved": None if part.bytes_moved is None else round(part.bytes_moved / 1e9, 3),
        "share_of_bandwidth": (
            None
            if part.bytes_moved is None
            else round(part.bytes_moved / seconds / rates["stream"], 3)
        ),
    }


def against_torch(ours: Sequence[Row], theirs: Mapping[str, Row], error: float) -> Row:
    """How many times as fast as PyTorch, from rows of the same run.

    Args:
      ours: rows.
      theirs: "part, batch n" -> its summary.
      error: the largest relative difference of scores.
    """
    ratios = {}
    for one in ours:
        key = f"{one['part']}, batch {one['batch']}"
        if key in theirs:
            ratios[key] = round(theirs[key]["p50_ms"] / one["p50_ms"], 2)
    whole = {int(key.split()[-1]): ratio for key, ratio in ratios.items() if "detector" in key}
    return {
        "throughput_ratio": whole[max(whole)],
        "latency_batch1_ratio": whole.get(1),
        "ratios": ratios,
        "largest_score_difference": error,
        "torch": dict(theirs),
    }


def slower(before: Mapping[str, Any], now: Mapping[str, Any], tolerance: float) -> list[str]:
    """Lines about parts that take longer than in an earlier run, beyond tolerance and spread.

    Raises:
      UserError: the two score in different precisions.
    """
    if before["dtype"] != now["dtype"]:
        raise UserError(
            f"--against: {before['dtype']} there and {now['dtype']} here cannot be compared; "
            f"--set denoiser.dtype={before['dtype']}"
        )
    earlier = {(one["part"], one["batch"]): one for one in before["parts"]}
    lines = []
    for one in now["parts"]:
        then = earlier.get((one["part"], one["batch"]))
        if then is None:
            continue
        ratio = one["p50_ms"] / then["p50_ms"]
        if ratio > 1 + tolerance + max(one["spread"], then["spread"]):
            lines.append(
                f"{one['part']}, batch {one['batch']}: {then['p50_ms']:.3g} -> "
                f"{one['p50_ms']:.3g} ms ({ratio:.2f} times)"
            )
    return lines


def markdown(run: Mapping[str, Any]) -> str:
    """The tables of a run."""
    machine, rates = run["machine"], run["rates"]
    device = machine["device"]
    versions = machine["versions"]
    lines = [
        f"{device['count']} x {device['kind']} ({device['platform']}), {machine['processor']}, "
        f"{machine['cores']} cores, load {machine['load_average'][0]}; jax {versions['jax']}, "
        f"Python {versions['python']}; {machine['date']}. Matrix product "
        f"{rates['matrix_product'] / 1e9:.0f} GFLOP/s ({run['dtype']}), memory "
        f"{rates['stream'] / 1e9:.0f} GB/s.",
        "",
        "| part | batch | images/s | p50 ms | p95 | p99 | spread | GFLOP | of the product rate | "
        "GB moved | of the bandwidth | compile s | peak MB |",
        "| --- |" + " --- |" * 12,
    ]
    columns = (
        "part",
        "batch",
        "images_per_second",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "spread",
        "gflop",
        "share_of_products",
        "gb_moved",
        "share_of_bandwidth",
        "compile_s",
        "peak_mb",
    )
    lines += [
        "| " + " | ".join(_cell(one[name]) for name in columns) + " |" for one in run["parts"]
    ]
    if "against_torch" in run:
        lines += ["", *_torch_table(run["against_torch"])]
    if "training" in run:
        found = run["training"]
        lines += [
            "",
            f"Loop of `train`: {found['steps_per_second']:.3g} steps/s; the compiled step alone is "
            f"{100 * found['share_of_wall']:.0f} % of its time, "
            f"{100 * found['share_of_processor']:.1f} % of its processor time. Of the step's, the "
            f"system takes {100 * found['system_share']:.0f} %, to give it memory.",
        ]
    if "predict" in run:
        found = run["predict"]
        lines += [
            "",
            f"`predict`, {found['images']} JPEG files of 512 px to decisions: "
            f"{found['images_per_second']:.3g} images/s, devices busy "
            f"{100 * found['busy_share']:.0f} %, {100 * found['processor_share']:.0f} % of the "
            f"processor time; memory {found['memory_mb'][0]:.0f} MB after the first tenth, "
            f"{found['memory_mb'][1]:.0f} MB at most after that.",
        ]
    lines += [
        "",
        f"Pixel metrics of 100 maps of 256 x 256: {run['metrics']['p50_ms'] / 1e3:.2f} s.",
    ]
    return "\n".join(lines) + "\n"


def _torch_table(found: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {key} | {found['torch'][key]['p50_ms']:.4g} | {found['torch'][key]['spread']:.2g} | "
        f"{ratio} |"
        for key, ratio in found["ratios"].items()
    ]
    difference = f"{found['largest_score_difference']:.1e}"
    head = ["| part | PyTorch, p50 ms | spread | times as fast |", "| --- | --- | --- | --- |"]
    return [*head, *rows, "", f"Largest difference of a score: {difference} of the largest."]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
