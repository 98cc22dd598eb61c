"""Masked diffusion (MDM), as many cells at every level; reconstruction in ten steps.

    python -m invad_jax.train --config configs/rivals/masked.py
    python -m invad_jax.eval --workdir runs/masked

Our definition: no code of it is public.
The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/rivals.md.
"""

from invad_jax.config import Config, DiffusionConfig, InversionConfig
from invad_jax.config.rivals import FOUR_SETS, rival_config


def get_config() -> Config:
    return rival_config(
        "masked",
        DiffusionConfig(prediction="sample"),
        InversionConfig(paradigm="reconstruction", num_steps=20, noise_ratio=0.5),
        FOUR_SETS,
    )
