"""VisA, one model for all 12 categories, with the published settings.

    python -m invad_jax.train --config configs/visa_dit.py --set data.root=FOLDER
    python -m invad_jax.eval --config configs/visa_dit.py --set data.root=FOLDER

Batch 64, published as 8 on each of 8 devices; 300 epochs of 8,659 images are 40,589 steps. For
other numbers of devices see `mvtec_dit.py`.
Published: I-AUROC 96.9, mAD 80.3, 74.1 images/s (RTX 4090, batch 64).
Result: not run.
"""

from invad_jax.config import Config, DataConfig
from invad_jax.config.published import published_config


def get_config() -> Config:
    data = DataConfig(name="visa", root="data/visa")
    return published_config(data, num_images=8_659, num_devices=8)
