"""Hazelnut photographs (28 normal to train, 23 to test), small enough for a laptop.

    make quickstart
    python -m invad_jax.train --config configs/hazelnut.py
    python -m invad_jax.eval --config configs/hazelnut.py

One function evaluation (S = 1) is asked of the network: the cheapest detector, and all that so few
images can teach. A quarter of the normals is held out: of so few, seven are needed to say what is
unusual at all. Result: see docs/results.md.
"""

from invad_jax.config import (
    CalibrationConfig,
    Config,
    DataConfig,
    DenoiserConfig,
    EncoderConfig,
    InversionConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=DataConfig(name="hazelnut", image_size=256, holdout_fraction=0.25),
        encoder=EncoderConfig(name="efficientnet_lite0", stage_resize="area", pool=2),
        denoiser=DenoiserConfig(name="dit", width=192, depth=4, num_heads=4),
        train=TrainConfig(
            num_steps=300,
            batch_size=16,
            learning_rate=1e-3,
            warmup_steps=30,
            ema_decay=0.99,
            checkpoint_every=100,
        ),
        inversion=InversionConfig(num_steps=1),
        calibration=CalibrationConfig(false_positive_rate=0.05),
    )
