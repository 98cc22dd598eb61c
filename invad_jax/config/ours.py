"""The experiment that our own configs share: small enough for a laptop, what we would run first.

Read next: `configs/folder.py`, one of them; `published.py`, the paper's.
"""

from __future__ import annotations

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


def four_sets(*categories: str, image_size: int = 256) -> DataConfig:
    """Some of the real sets that lie in `../shared/data`, or in `$INVAD_SHARED/data`: optional test
    data."""
    root = os.path.join(os.environ.get("INVAD_SHARED", "../shared"), "data")
    return DataConfig(name="mvtec", root=root, categories=categories, image_size=image_size)


def our_config(data: DataConfig, num_steps: int = 300, batch_size: int = 16) -> Config:
    """Inversion in coordinates where normal latents are N(0, I), compared with N(0, I).

    EfficientNet-Lite0 features on a 16 x 16 grid, a DiT of 1 M parameters whose tokens are 2 x 2
    positions, steps in the angle.

    Args:
      data: where the images are.
      num_steps: of training; 0 leaves the network out.
      batch_size: of training.

    >>> our_config(DataConfig()).inversion.solver
    'angle'
    """
    return Config(
        data=data,
        encoder=EncoderConfig(name="efficientnet_lite0", stage_resize="area"),
        denoiser=DenoiserConfig(name="dit", width=128, depth=3, num_heads=4, patch_size=2),
        diffusion=DiffusionConfig(prediction="v"),
        train=TrainConfig(
            num_steps=num_steps,
            batch_size=batch_size,
            learning_rate=1e-3,
            warmup_steps=30,
            ema_decay=0.99,
            latent_stats="whiten",
            checkpoint_every=100,
        ),
        inversion=InversionConfig(solver="angle"),
        scoring=ScoringConfig(prior="standard_normal"),
    )
