"""A folder of your own: normal images in `train/good/`, anything to test in `test/`.

    python -m invad_jax.train --config configs/folder.py --workdir runs/mine --set data.root=FOLDER
    python -m invad_jax.eval --workdir runs/mine
    python -m invad_jax.predict --workdir runs/mine --input NEW_IMAGES --out decisions

`--set train.num_steps=0` leaves the network out: ready in seconds, and what training has to beat.
Result: depends on the images.
"""

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
        data=DataConfig(name="folder", image_size=256),
        encoder=EncoderConfig(name="efficientnet_lite0", stage_resize="area"),
        denoiser=DenoiserConfig(name="dit", width=128, depth=3, num_heads=4, patch_size=2),
        diffusion=DiffusionConfig(prediction="v"),
        train=TrainConfig(
            num_steps=300,
            batch_size=16,
            learning_rate=1e-3,
            warmup_steps=30,
            ema_decay=0.99,
            latent_stats="whiten",
            checkpoint_every=100,
        ),
        inversion=InversionConfig(solver="angle"),
        scoring=ScoringConfig(prior="standard_normal"),
    )
