"""Brain MRI of BMAD (pixel masks), with the published settings.

    python -m invad_jax.train --config configs/bmad_brain.py --set data.root=FOLDER
    python -m invad_jax.eval --config configs/bmad_brain.py --set data.root=FOLDER

FOLDER is that of the set, Brain; its images are counted as in the paper of BMAD.
Batch 8, on one device; 300 epochs of 7,500 images are 281,250 steps.
Published: mAD 87.2, 88 images/s (RTX 4090, batch 64), for the six sets together; three of them
have masks, and so an mAD here (docs/reproduce.md).
Result: not run.
"""

from invad_jax.config import Config, DataConfig
from invad_jax.config.published import published_config


def get_config() -> Config:
    data = DataConfig(name="bmad", root="data/bmad/Brain")
    return published_config(data, num_images=7_500, num_devices=1)
