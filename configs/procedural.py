"""A generated data set and untrained features: needs no download, tests the machinery.

    python -m invad_jax.train --config configs/procedural.py
    python -m invad_jax.eval --config configs/procedural.py

Result: none to speak of; the features are untrained.
"""

from invad_jax.config import Config, DataConfig, DenoiserConfig, EncoderConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="procedural", image_size=128),
        encoder=EncoderConfig(name="efficientnet_lite0", weights="random"),
        denoiser=DenoiserConfig(name="dit", width=64, depth=2, num_heads=4),
        train=TrainConfig(
            num_steps=400,
            batch_size=16,
            learning_rate=2e-3,
            warmup_steps=40,
            ema_decay=0.99,
            checkpoint_every=100,
        ),
    )
