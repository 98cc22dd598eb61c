"""TransFusion in latents: pasted anomalies, faded out in 18 steps.

    python -m invad_jax.train --config configs/rivals/transfusion.py
    python -m invad_jax.eval --workdir runs/transfusion

Its anomalies are patches of the training images; no texture from outside is seen.
The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/rivals.md.
"""

from invad_jax.config import Config, DiffusionConfig, InversionConfig
from invad_jax.config.rivals import FOUR_SETS, rival_config


def get_config() -> Config:
    return rival_config(
        "transfusion",
        DiffusionConfig(num_timesteps=20),
        InversionConfig(paradigm="transfusion", num_steps=18),
        FOUR_SETS,
    )
