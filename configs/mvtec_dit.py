"""MVTec AD, one model for all 15 categories, with the published settings.

    python -m invad_jax.train --config configs/mvtec_dit.py --set data.root=FOLDER
    python -m invad_jax.eval --config configs/mvtec_dit.py --set data.root=FOLDER

Batch 64, 8 on each of 8 devices; 300 epochs of 3,629 images are 17,010 steps.
Published: I-AUROC 99.0, mAD 83.7, 88.1 images/s (RTX 4090, batch 64).
Result: not run.
"""

from invad_jax.config import Config, DataConfig
from invad_jax.presets import published_config


def get_config() -> Config:
    data = DataConfig(name="mvtec", root="data/mvtec")
    return published_config(data, num_images=3_629, num_devices=8)
