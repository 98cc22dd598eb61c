"""A U-Net in the latent of a VAE of bottles: latent diffusion, both stages trained from scratch.

    python -m invad_jax.train_vae --config configs/four_sets_vae.py
    python -m invad_jax.train --config configs/four_sets_vae_unet.py
    python -m invad_jax.eval --config configs/four_sets_vae_unet.py

The first line makes `runs/four_sets_vae`, which the others read. About 8 minutes more on two cores.
The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/results.md.
"""

from invad_jax.config import Config, DenoiserConfig, EncoderConfig, TrainConfig
from invad_jax.config.ours import four_sets


def get_config() -> Config:
    return Config(
        data=four_sets("bottle", image_size=128),
        encoder=EncoderConfig(name="vae", weights="runs/four_sets_vae"),
        # On 16 x 16 x 8: levels of 64, 128 and 128 channels, two and four a group.
        denoiser=DenoiserConfig(
            name="unet",
            width=64,
            num_res_blocks=1,
            channel_mult=(1, 2, 2),
            attention_downsamplings=(2, 4),
        ),
        train=TrainConfig(
            num_steps=1000,
            batch_size=32,
            learning_rate=1e-3,
            warmup_steps=100,
            ema_decay=0.995,
            checkpoint_every=250,
        ),
    )
