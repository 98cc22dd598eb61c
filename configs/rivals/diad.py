"""DiAD: from full noise, shown the latent itself, in ten steps.

    python -m invad_jax.train --config configs/rivals/diad.py
    python -m invad_jax.eval --workdir runs/diad

The latent takes the place of the guidance network; identity is within its reach.
The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/rivals.md.
"""

from invad_jax.config import Config, DiffusionConfig, InversionConfig
from invad_jax.config.rivals import FOUR_SETS, rival_config


def get_config() -> Config:
    return rival_config(
        "diad",
        DiffusionConfig(),
        InversionConfig(paradigm="diad", num_steps=10),
        FOUR_SETS,
    )
