"""A folder of your own: normal images in `train/good/`, anything to test in `test/`.

    python -m invad_jax.train --config configs/folder.py --workdir runs/mine --set data.root=FOLDER
    python -m invad_jax.eval --workdir runs/mine
    python -m invad_jax.predict --workdir runs/mine --input NEW_IMAGES --out decisions

Result: depends on the images.
"""

from invad_jax.config import Config, DataConfig, DenoiserConfig, EncoderConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="folder", image_size=256),
        encoder=EncoderConfig(name="efficientnet_lite0", stage_resize="area", pool=2),
        denoiser=DenoiserConfig(name="dit", width=192, depth=4, num_heads=4),
        train=TrainConfig(
            num_steps=2000,
            batch_size=16,
            learning_rate=1e-3,
            warmup_steps=100,
            ema_decay=0.995,
            checkpoint_every=250,
        ),
    )
