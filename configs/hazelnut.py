"""Hazelnut photographs (28 normal to train, 23 to test), small enough for a laptop.

    make quickstart
    python -m invad_jax.train --config configs/hazelnut.py
    python -m invad_jax.eval --config configs/hazelnut.py

Result: not run.
"""

from invad_jax.config import Config, DataConfig, DenoiserConfig, EncoderConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="hazelnut", image_size=256),
        encoder=EncoderConfig(name="efficientnet_lite0", stage_resize="area", pool=2),
        denoiser=DenoiserConfig(name="dit", width=192, depth=4, num_heads=4),
        train=TrainConfig(
            num_steps=800,
            batch_size=16,
            learning_rate=1e-3,
            warmup_steps=50,
            ema_decay=0.99,
            checkpoint_every=400,
        ),
    )
