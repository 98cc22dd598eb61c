"""Writes the table in `docs/encoders.md`: what each encoder is, gives and costs.

python docs/encoders_table.py                          # without speeds
python docs/encoders_table.py --time efficientnet_b4   # and with this one's, on this machine
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from pathlib import Path

import jax
import numpy as np

from invad_jax.config import DataConfig, EncoderConfig
from invad_jax.encoders import ENCODERS, Encoder, build_encoder
from invad_jax.encoders.sources import SOURCES, WITHOUT_WEIGHTS, PackageSource
from invad_jax.errors import UserError
from invad_jax.io.files import write_text

PAGE = Path(__file__).with_name("encoders.md")
BEGIN, END = "<!-- written by docs/encoders_table.py -->\n", "<!-- end -->\n"
NAMES = [name for name in ENCODERS if name != "vae"]  # whose sizes are those of a workdir
COLUMNS = (
    "`encoder.name`",
    "weights",
    "licence",
    "input",
    "latent",
    "M parameters",
    "GFLOP",
    "images/s",
)
BATCH_SIZE = 4


def main(timed: list[str]) -> None:
    """Builds every encoder with random weights: neither shapes nor costs depend on them."""
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    for name in NAMES:
        lines.append(" | ".join(row(name, name in timed)))
        print(lines[-1], flush=True)
    table = "".join(f"| {line} |\n" for line in lines)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(PAGE, f"{before}{BEGIN}\n{table}\n{conditions(timed)}\n{END}{after}")


def row(name: str, timed: bool) -> list[str]:
    """The cells of one encoder."""
    encoder, size = build(name)
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.uint8)
    compiled = jax.jit(encoder.apply).lower(encoder.variables, image).compile()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(encoder.variables))
    return [
        f"`{name}`",
        *origin(name),
        f"{size}",
        " x ".join(map(str, encoder.latent_shape)),
        f"{parameters / 1e6:.1f}",
        f"{compiled.cost_analysis()['flops'] / 1e9:.1f}",
        f"{images_per_second(encoder, size):.1f}" if timed else "not measured",
    ]


def build(name: str) -> tuple[Encoder, int]:
    """An encoder for the default image size or, where that does not fit its patches, for 224."""
    config = EncoderConfig(name=name, weights="random")
    size = DataConfig().image_size
    try:
        return build_encoder(config, size), size
    except UserError:
        return build_encoder(config, 224), 224


def origin(name: str) -> tuple[str, str]:
    """Where `encoder.weights=auto` finds the weights, and their licence."""
    if name in WITHOUT_WEIGHTS:
        return "none", "none needed"
    source = SOURCES.get(name)
    if source is None:
        return "your file", "see below"
    if isinstance(source, PackageSource):
        return f"package index, `{source.requirement}`", source.licence
    return f"[{source.file}]({source.url})", source.licence


def images_per_second(encoder: Encoder, size: int, seconds: float = 2.0) -> float:
    """Of the compiled encoder alone, its input on the device; median, the first call left out."""
    image = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, size, size, 3), np.uint8)
    apply = jax.jit(encoder.apply)
    variables, on_device = jax.device_put((encoder.variables, image))
    jax.block_until_ready(apply(variables, on_device))
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        jax.block_until_ready(apply(variables, on_device))
        times.append(time.perf_counter() - start)
    return BATCH_SIZE / float(np.median(times))


def conditions(timed: list[str]) -> str:
    """What the numbers of the table hold for."""
    command = " ".join(["python docs/encoders_table.py", *(["--time", *timed] if timed else [])])
    text = f"`{command}`, {datetime.date.today()}, JAX {jax.__version__}.\n"
    if timed:
        kind = jax.devices()[0].device_kind
        text += (
            f"Images/s: {kind}, {os.cpu_count()} cores, {platform.machine()}, batch {BATCH_SIZE}, "
            "float32, compiler and first call left out.\n"
        )
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--time", nargs="+", default=[], choices=NAMES, metavar="NAME")
    main(parser.parse_args().time)
