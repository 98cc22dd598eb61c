"""A small VAE of bottles, 188 normal images at 128 pixels: the first stage of four_sets_vae_unet.

    python -m invad_jax.train_vae --config configs/four_sets_vae.py
    python -m invad_jax.train --config configs/four_sets_vae_unet.py
    python -m invad_jax.eval --config configs/four_sets_vae_unet.py

About 12 minutes on two free cores.
The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/results.md.
"""

from invad_jax.config import Config, EvalConfig, TrainConfig, VAEConfig
from invad_jax.config.ours import four_sets


def get_config() -> Config:
    return Config(
        data=four_sets("bottle", image_size=128),
        # 12, 24, 48, 96 channels: three a group of every normalisation, never a group of one.
        vae=VAEConfig(width=12, multipliers=(1, 2, 4, 8), num_res_blocks=1, latent_channels=8),
        train=TrainConfig(
            num_steps=950,
            batch_size=8,
            learning_rate=1e-3,
            warmup_steps=50,
            ema_decay=0.99,
            checkpoint_every=190,
        ),
        eval=EvalConfig(batch_size=8),
    )
