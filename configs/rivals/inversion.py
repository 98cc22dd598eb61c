"""The method itself, on standardised latents, beside which the others are put.

    python -m invad_jax.train --config configs/rivals/inversion.py
    python -m invad_jax.eval --workdir runs/inversion

The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/rivals.md.
"""

from invad_jax.config import Config, DiffusionConfig, InversionConfig
from invad_jax.config.rivals import FOUR_SETS, rival_config


def get_config() -> Config:
    return rival_config(
        "diffusion",
        DiffusionConfig(),
        InversionConfig(num_steps=3),
        FOUR_SETS,
    )
