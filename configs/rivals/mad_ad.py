"""MAD-AD: what looks masked is denoised, in ten steps.

    python -m invad_jax.train --config configs/rivals/mad_ad.py
    python -m invad_jax.eval --workdir runs/mad_ad

The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/rivals.md.
"""

from invad_jax.config import Config, DiffusionConfig, InversionConfig
from invad_jax.config.rivals import FOUR_SETS, rival_config


def get_config() -> Config:
    return rival_config(
        "mad_ad",
        DiffusionConfig(num_timesteps=10, schedule="cosine", prediction="sample"),
        InversionConfig(paradigm="mad_ad", num_steps=10),
        FOUR_SETS,
    )
