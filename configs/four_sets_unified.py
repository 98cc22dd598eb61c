"""One model for four real sets: bottle, ball-screw surfaces, cookies, cubes (632 normal images).

    python -m invad_jax.train --config configs/four_sets_unified.py
    python -m invad_jax.eval --config configs/four_sets_unified.py

The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`; for other sets,
change `data.root` and `data.categories`. Result: see docs/accuracy.md.
"""

import os

from invad_jax.config import (
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
        data=DataConfig(
            name="mvtec",
            root=os.path.join(os.environ.get("INVAD_SHARED", "../shared"), "data"),
            categories=("bottle", "bsdata", "aws_cookie", "dobot_cubes"),
            image_size=256,
        ),
        encoder=EncoderConfig(name="efficientnet_lite0", stage_resize="area"),
        denoiser=DenoiserConfig(name="dit", width=128, depth=3, num_heads=4, patch_size=2),
        diffusion=DiffusionConfig(prediction="v"),
        train=TrainConfig(
            num_steps=300,
            batch_size=32,
            learning_rate=1e-3,
            warmup_steps=30,
            ema_decay=0.99,
            latent_stats="whiten",
            checkpoint_every=100,
        ),
        inversion=InversionConfig(solver="angle"),
        scoring=ScoringConfig(prior="standard_normal"),
    )
