"""Hazelnut photographs (28 normal to train, 23 to test), small enough for a laptop.

    make quickstart
    python -m invad_jax.train --config configs/hazelnut.py
    python -m invad_jax.eval --config configs/hazelnut.py

Inversion in coordinates where normal latents are N(0, I), compared with N(0, I). A tenth of the
normals is held out: whether the network has learnt anything that the coordinates do not know is
decided there, and said. Result: see docs/results.md.
"""

from invad_jax.config import (
    CalibrationConfig,
    Config,
    DataConfig,
    DenoiserConfig,
    DiffusionConfig,
    EncoderConfig,
    InversionConfig,
    ScoringConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=DataConfig(name="hazelnut", image_size=256),
        encoder=EncoderConfig(name="efficientnet_lite0", stage_resize="area"),
        denoiser=DenoiserConfig(name="dit", width=128, depth=3, num_heads=4, patch_size=2),
        diffusion=DiffusionConfig(prediction="v"),
        train=TrainConfig(
            num_steps=200,
            batch_size=16,
            learning_rate=1e-3,
            warmup_steps=30,
            ema_decay=0.99,
            latent_stats="whiten",
            checkpoint_every=100,
        ),
        inversion=InversionConfig(solver="angle"),
        scoring=ScoringConfig(prior="standard_normal"),
        calibration=CalibrationConfig(false_positive_rate=0.05),
    )
