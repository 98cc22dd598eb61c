"""Other diffusion detectors on the same latents, network, steps and seeds as the method.

What is theirs is the objective, the noise levels and the walk; all else is common to all, so that
nothing but these is compared. Read next: `configs/rivals/deco_diff.py`, one of them.
"""

from __future__ import annotations

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
from invad_jax.config.ours import four_sets

FOUR_SETS = four_sets("bottle", "bsdata", "aws_cookie", "dobot_cubes")
"""The optional test data; for other sets, change `data.root` and `data.categories`."""


def rival_config(
    objective: str, diffusion: DiffusionConfig, inversion: InversionConfig, data: DataConfig
) -> Config:
    """One model for all categories, latents of 8 x 8 standardised by channel, a DiT of 1 M.

    Args:
      objective: `train.objective`.
      diffusion: the noise levels, and what the network says.
      inversion: the walk.
      data: where the images are.

    >>> rival_config("diffusion", DiffusionConfig(), InversionConfig(), FOUR_SETS).encoder.pool
    2
    """
    restores = inversion.paradigm != "reconstruction"  # which has one comparison alone
    return Config(
        data=data,
        encoder=EncoderConfig(name="efficientnet_lite0", stage_resize="area", pool=2),
        denoiser=DenoiserConfig(name="dit", width=128, depth=4, num_heads=4),
        diffusion=diffusion,
        train=TrainConfig(
            num_steps=600,
            batch_size=32,
            learning_rate=1e-3,
            warmup_steps=30,
            ema_decay=0.99,
            objective=objective,  # type: ignore[arg-type]
            checkpoint_every=200,
        ),
        inversion=inversion,
        scoring=ScoringConfig(prior="standard_normal") if restores else ScoringConfig(),
    )
