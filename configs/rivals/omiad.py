"""OmiAD: one step, distilled from masked diffusion; our reading, as its code is not public.

    python -m invad_jax.train --config configs/rivals/masked_adaptive.py
    python -m invad_jax.train --config configs/rivals/omiad.py
    python -m invad_jax.eval --workdir runs/omiad

With an adversarial term: --set train.objective=omiad_adversarial.
The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/rivals.md.
"""

import dataclasses

from invad_jax.config import Config, DiffusionConfig, InversionConfig
from invad_jax.config.rivals import FOUR_SETS, rival_config


def get_config() -> Config:
    config = rival_config(
        "omiad",
        DiffusionConfig(prediction="sample"),
        InversionConfig(paradigm="omiad"),
        FOUR_SETS,
    )
    # The student starts as a trained network: small steps.
    train = dataclasses.replace(
        config.train, teacher="runs/masked_adaptive", learning_rate=1e-4, num_steps=200
    )
    return dataclasses.replace(config, train=train)
