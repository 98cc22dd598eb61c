"""MPDD, as `mpdd_dit.py`, from white latents.

    python -m invad_jax.train --config configs/mpdd_dit_white.py --set data.root=FOLDER
    python -m invad_jax.eval --config configs/mpdd_dit_white.py --set data.root=FOLDER

Network, batch and number of steps are the published ones; latents are taken in coordinates where
normal ones are N(0, I) (`config/whitened.py`).
Result: not run.
"""

from pathlib import Path

from invad_jax.config import Config
from invad_jax.config.io import load
from invad_jax.config.whitened import whitened


def get_config() -> Config:
    return whitened(load(Path(__file__).with_name("mpdd_dit.py")))
