"""DeCo-Diff that is told the category of each image in training, as published.

    python -m invad_jax.train --config configs/rivals/deco_diff_class.py
    python -m invad_jax.eval --workdir runs/deco_diff_class --set inversion.label=inferred

At test it is told none, the inferred one, or the number of one (`inversion.label`).
The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/rivals.md.
"""

from invad_jax.config import Config, DiffusionConfig, InversionConfig
from invad_jax.config.rivals import FOUR_SETS, rival_config


def get_config() -> Config:
    return rival_config(
        "deco_diff_class",
        DiffusionConfig(num_timesteps=10, schedule="cosine", prediction="deviation"),
        InversionConfig(paradigm="deco_diff", num_steps=5),
        FOUR_SETS,
    )
