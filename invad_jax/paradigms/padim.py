"""Was the diffusion needed? PaDiM on the same latents (Defard et al. 2021): Gaussians of x0."""

from __future__ import annotations

import jax

from invad_jax.config import Config
from invad_jax.diffusion.inversion import EpsFn
from invad_jax.normality import mixture
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms.paradigm import Paradigm
from invad_jax.scoring import score_under


def paradigm(config: Config) -> Paradigm:
    """A Gaussian for each position, scored by Mahalanobis distance; its own networks are not ours.

    Source: Defard et al. 2021, with its constant (`mixture.PADIM_REGULARISATION`).
    """
    return Paradigm(
        timesteps=(),
        states=x0_alone,
        compare=score_under,
        lessons=Lessons(gaussians=mixture.padim, components=config.scoring.components),
        terms=("map_max",),  # as published
        whitened=False,
    )


def x0_alone(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
    """Nothing is asked of the network: (B, 1, h, w, C)."""
    return x0[:, None]
