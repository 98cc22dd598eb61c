"""Whether the networks of many configs fit their latents, before the first of them is trained.

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


def first_misfit(configs: Sequence[Config]) -> tuple[int, str]:
    """The number of the first config that `train` would refuse for its sizes, or because its
    network does not say what is asked, and why; -1 and nothing where there is none."""
    command = [sys.executable, "-m", "invad_jax.inference.shapes"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    said, trouble = process.communicate(json.dumps([config_io.to_dict(one) for one in configs]))
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {trouble}")
    number, reason = json.loads(said.splitlines()[-1])
    return number, reason


def main() -> None:
    """Reads configs from the standard input, and prints what `first_misfit` returns."""
    from invad_jax.encoders import describe_encoder
    from invad_jax.inference.assembly import build_detector

    found = -1, ""
    for number, values in enumerate(json.load(sys.stdin)):
        config = config_io.from_dict(values)
        try:
            _, encoder = describe_encoder(config.encoder, config.data.image_size, config.tiling)
            build_detector(config, encoder.latent_shape, encoder.apply)
        except UserError as error:
            found = number, str(error)
            break
    print(json.dumps(found))


if __name__ == "__main__":
    main()
