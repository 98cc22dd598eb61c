"""KL-16 trained from scratch on the normal images of MVTec AD: the first stage of mvtec_vae_unet.

    python -m invad_jax.train_vae --config configs/mvtec_vae.py --set data.root=MVTEC
    python -m invad_jax.train --config configs/mvtec_vae_unet.py --set data.root=MVTEC
    python -m invad_jax.eval --config configs/mvtec_vae_unet.py --set data.root=MVTEC

Sizes are those of KL-16 (Li et al. 2024): 256 x 256 pixels become 16 x 16 x 16.
Result: not run.
"""

from invad_jax.config import (
    Config,
    DataConfig,
    EncoderConfig,
    TrainConfig,
    VAEConfig,
    VAELossConfig,
)


def get_config() -> Config:
    return Config(
        data=DataConfig(name="mvtec", image_size=256),
        encoder=EncoderConfig(name="efficientnet_lite0"),  # what the perceptual term looks through
        vae=VAEConfig(multipliers=(1, 1, 2, 2, 4), encoder_attention=(16,), latent_channels=16),
        vae_loss=VAELossConfig(perceptual_weight=0.1),
        train=TrainConfig(
            num_steps=50_000,
            batch_size=32,
            learning_rate=1e-4,
            warmup_steps=1000,
            checkpoint_every=2500,
        ),
    )
