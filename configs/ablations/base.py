"""The base of every ablation: a small model of two real sets, bottle and ball-screw surfaces.

    python -m invad_jax.sweep --config configs/ablations/base.py --out runs/ablations \\
        --name prior --seeds 0,1,2 --over inversion.num_steps=1,2,3,5,10,50 \\
        --over scoring.prior=fitted,standard_normal

The commands of the other tables, and what all of them say: docs/ablations.md. One `--out` serves
them all: a model or a point that several tables need is made once.
The data is the optional test data: `../shared/data`, or `$INVAD_SHARED/data`.
Result: see docs/ablations.md.
"""

from invad_jax.config import Config, DenoiserConfig, EncoderConfig, TrainConfig
from invad_jax.config.ours import four_sets


def get_config() -> Config:
    return Config(
        data=four_sets("bottle", "bsdata"),
        encoder=EncoderConfig(name="efficientnet_lite0", stage_resize="area", pool=2),
        denoiser=DenoiserConfig(name="dit", width=128, depth=4, num_heads=4),
        train=TrainConfig(
            num_steps=300,
            batch_size=32,
            learning_rate=1e-3,
            warmup_steps=30,
            ema_decay=0.99,
            checkpoint_every=150,
        ),
    )
