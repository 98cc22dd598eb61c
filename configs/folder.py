"""A folder of your own: normal images in `train/good/`, anything to test in `test/`.

    python -m invad_jax.train --config configs/folder.py --workdir runs/mine --set data.root=FOLDER
    python -m invad_jax.eval --workdir runs/mine
    python -m invad_jax.predict --workdir runs/mine --input NEW_IMAGES --out decisions

`--set train.num_steps=0` leaves the network out: no training, and what training has to beat.
Result: depends on the images.
"""

from invad_jax.config import Config, DataConfig
from invad_jax.config.ours import our_config


def get_config() -> Config:
    return our_config(DataConfig(name="folder"))
