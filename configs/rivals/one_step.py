"""The inversion in one step, distilled from ten of a trained network; our reading.

    python -m invad_jax.train --config configs/rivals/inversion.py
    python -m invad_jax.train --config configs/rivals/one_step.py
    python -m invad_jax.eval --workdir runs/one_step --set scoring.prior=fitted

The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/rivals.md.
"""

import dataclasses

from invad_jax.config import Config, DiffusionConfig, InversionConfig
from invad_jax.config.rivals import FOUR_SETS, rival_config


def get_config() -> Config:
    config = rival_config(
        "one_step",
        DiffusionConfig(),
        InversionConfig(num_steps=1),
        FOUR_SETS,
    )
    train = dataclasses.replace(
        config.train, teacher="runs/inversion", learning_rate=1e-4, num_steps=200
    )
    return dataclasses.replace(config, train=train)
