"""Hazelnut photographs (28 normal to train, 23 to test), small enough for a laptop.

    make quickstart
    python -m invad_jax.train --config configs/hazelnut.py
    python -m invad_jax.eval --config configs/hazelnut.py

Inversion in coordinates where normal latents are N(0, I), compared with N(0, I). A tenth of the
normals is held out: whether the network has learnt anything that the coordinates do not know is
decided there, and said. Result: see docs/results.md.
"""

import dataclasses

from invad_jax.config import CalibrationConfig, Config, DataConfig
from invad_jax.config.ours import our_config


def get_config() -> Config:
    config = our_config(DataConfig(name="hazelnut"), num_steps=200)
    calibration = CalibrationConfig(false_positive_rate=0.05)
    return dataclasses.replace(config, calibration=calibration)
