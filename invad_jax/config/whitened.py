"""The same experiment in coordinates where normal latents are N(0, I).

Read next: `coordinates.py`, what they are; `configs/mvtec_dit_white.py`, a published experiment in
them.
"""

from __future__ import annotations

import dataclasses

from invad_jax.config import Config


def whitened(config: Config) -> Config:
    """A config whose inversion starts from whitened latents; its network and steps stay.

    Images are held out, because they decide at the end whether the average is kept, and so it is
    the average that is evaluated.

    >>> whitened(Config()).diffusion.prediction
    'v'
    """
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, holdout_fraction=0.1),
        diffusion=dataclasses.replace(config.diffusion, prediction="v"),
        train=dataclasses.replace(config.train, latent_stats="whiten"),
        inversion=dataclasses.replace(config.inversion, solver="angle", use_ema=True),
        scoring=dataclasses.replace(config.scoring, prior="standard_normal"),
    )
