"""MVTec AD, one model for all 15 categories, on whitened features of DINOv2.

    python -m invad_jax.train --config configs/mvtec_dinov2.py --set data.root=FOLDER
    python -m invad_jax.eval --config configs/mvtec_dinov2.py --set data.root=FOLDER

For accelerators (`config/wide.py`); `--set train.num_steps=0` leaves the network out. On every
device 3.1 GB of whitening matrices and 1.3 GB of latents of the normal images.
Result: not run.
"""

from invad_jax.config import Config, DataConfig
from invad_jax.config.wide import wide_config


def get_config() -> Config:
    return wide_config(DataConfig(name="mvtec", root="data/mvtec"))
