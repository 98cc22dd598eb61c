"""Masked diffusion with more masks where there is more noise: OmiAD's teacher, AMDM.

    python -m invad_jax.train --config configs/rivals/masked_adaptive.py
    python -m invad_jax.eval --workdir runs/masked_adaptive

Our reading of the method: its code is not public.
The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/rivals.md.
"""

from invad_jax.config import Config, DiffusionConfig, InversionConfig
from invad_jax.config.rivals import FOUR_SETS, rival_config


def get_config() -> Config:
    return rival_config(
        "masked_adaptive",
        DiffusionConfig(prediction="sample"),
        InversionConfig(paradigm="reconstruction", num_steps=20, noise_ratio=0.5),
        FOUR_SETS,
    )
