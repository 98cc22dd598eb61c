"""Was the diffusion needed? PatchCore's core on the same latents (Roth et al. 2022)."""

from __future__ import annotations

from invad_jax.config import Config
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms.padim import x0_alone
from invad_jax.paradigms.paradigm import Paradigm
from invad_jax.scoring import score_nearest


def paradigm(config: Config) -> Paradigm:
    """The distance of x0 to the nearest vector of a normal image, at any position."""
    return Paradigm(
        timesteps=(),
        states=x0_alone,
        compare=score_nearest,
        lessons=Lessons(memory_bank=True),
        terms=("map_max",),  # as published
        whitened=False,
    )
