"""MPDD, one model for all 6 categories, with the published settings.

    python -m invad_jax.train --config configs/mpdd_dit.py --set data.root=FOLDER
    python -m invad_jax.eval --config configs/mpdd_dit.py --set data.root=FOLDER

The data has the layout of MVTec AD.
Batch 64, published as 8 on each of 8 devices; 300 epochs of 888 images are 4,162 steps. For other
numbers of devices see `mvtec_dit.py`.
Published: I-AUROC 96.5, mAD 80.1, 120 images/s (RTX 4090, batch 64).
Result: not run.
"""

from invad_jax.config import Config, DataConfig
from invad_jax.config.published import published_config


def get_config() -> Config:
    data = DataConfig(name="mvtec", root="data/mpdd")
    return published_config(data, num_images=888, num_devices=8)
