"""DeCo-Diff: deviations of latents with spoilt cells, subtracted in five steps.

    python -m invad_jax.train --config configs/rivals/deco_diff.py
    python -m invad_jax.eval --workdir runs/deco_diff

No class is told, in training or after it.
The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/rivals.md.
"""

from invad_jax.config import Config, DiffusionConfig, InversionConfig
from invad_jax.config.rivals import FOUR_SETS, rival_config


def get_config() -> Config:
    return rival_config(
        "deco_diff",
        DiffusionConfig(num_timesteps=10, schedule="cosine", prediction="deviation"),
        InversionConfig(paradigm="deco_diff", num_steps=5),
        FOUR_SETS,
    )
