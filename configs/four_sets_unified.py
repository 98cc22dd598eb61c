"""One model for four real sets: bottle, ball-screw surfaces, cookies, cubes (632 normal images).

    python -m invad_jax.train --config configs/four_sets_unified.py
    python -m invad_jax.eval --config configs/four_sets_unified.py

The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`; for other sets,
change `data.root` and `data.categories`. Result: see docs/accuracy.md.
"""

from invad_jax.config import Config
from invad_jax.config.ours import four_sets, our_config


def get_config() -> Config:
    data = four_sets("bottle", "bsdata", "aws_cookie", "dobot_cubes")
    return our_config(data, batch_size=32)
