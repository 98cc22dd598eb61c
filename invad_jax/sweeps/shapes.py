"""Whether the networks of a grid fit their latents, before the first of them is trained.

It is asked in a process of its own, on its CPU: a sweep leaves the devices to its trainings.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from invad_jax.config import Config
from invad_jax.config import io as config_io
from invad_jax.errors import UserError
from invad_jax.sweeps.grid import Cell


def check(names: Sequence[str], cells: Sequence[Cell]) -> None:
    """Checks every cell as `train` checks what it is given.

    Args:
      names: the swept options.
      cells: of the grid.

    Raises:
      UserError: the first cell whose sizes do not fit, or whose network does not say what is asked.
    """
    command = [sys.executable, "-m", "invad_jax.sweeps.shapes"]
    configs = json.dumps([config_io.to_dict(cell.config) for cell in cells])
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    said, trouble = process.communicate(configs)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {trouble}")
    number, reason = json.loads(said.splitlines()[-1])
    if reason:
        pairs = zip(names, cells[number].values, strict=True)
        point = " ".join(f"{name}={value}" for name, value in pairs if value is not None)
        raise UserError(f"--over {point}: {reason}")


def first_misfit(configs: Sequence[Config]) -> tuple[int, str]:
    """Its number and what is wrong with it; -1 and nothing where all fit."""
    from invad_jax.encoders import describe_encoder
    from invad_jax.inference.assembly import build_detector

    for number, config in enumerate(configs):
        try:
            _, encoder = describe_encoder(config.encoder, config.data.image_size, config.tiling)
            build_detector(config, encoder.latent_shape, encoder.apply)
        except UserError as error:
            return number, str(error)
    return -1, ""


def main() -> None:
    """Reads configs from the standard input, and prints what `first_misfit` says of them."""
    configs = [config_io.from_dict(values) for values in json.load(sys.stdin)]
    print(json.dumps(first_misfit(configs)))


if __name__ == "__main__":
    main()
