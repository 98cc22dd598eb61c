"""Was the diffusion needed? Local retrieval on the same latents (RAD, arXiv 2601.22763)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.coordinates import Neighbourhood, local_distance
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms.padim import x0_alone
from invad_jax.paradigms.paradigm import Paradigm
from invad_jax.scoring import Reference, Scores, summarise

SIMILAR_IMAGES = 100
"""How many of the most similar normal images are looked at, as published."""


def neighbourhood(config: Config) -> Neighbourhood:
    """Where vectors of normal images are looked for."""
    return Neighbourhood(config.whitening.radius, SIMILAR_IMAGES)


def paradigm(config: Config) -> Paradigm:
    """The distance of x0 to the nearest vector around its position, in similar normal images."""
    where = neighbourhood(config)

    def compare(reference: Reference, states: jax.Array, image_size: int) -> Scores:
        square = local_distance(reference.bank, where, states[:, 0])  # (B, h, w)
        return summarise(jnp.sqrt(square), 0.5 * jnp.sum(square, axis=(1, 2)), image_size)

    return Paradigm(
        timesteps=(),
        states=x0_alone,
        compare=compare,
        lessons=Lessons(bank=True),
        terms=("map_top",),
        whitened=False,
    )
