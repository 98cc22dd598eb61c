"""`scoring.prior`: states are held against N(0, I), or against Gaussians of normal ones."""

from __future__ import annotations

import jax

from invad_jax.config import Config
from invad_jax.errors import UserError
from invad_jax.geometry import without_nan
from invad_jax.normality import gaussian
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms.paradigm import Paradigm
from invad_jax.scoring import Reference, Scores, score, score_under


def under_prior(config: Config, found: Paradigm) -> Paradigm:
    """A paradigm that compares by itself, or under Gaussians if the config says `fitted`."""
    if config.scoring.prior == "standard_normal":
        return found
    if config.scoring.prior == "decoded":
        raise UserError(
            f"scoring.prior=decoded: inversion.paradigm={config.inversion.paradigm} compares no "
            "images; deco_diff and mad_ad do"
        )
    return found._replace(
        compare=score_under,
        lessons=Lessons(gaussians=gaussian.fit, components=config.scoring.components),
        terms=("map_top",),
    )


def with_standard_normal(reference: Reference | None, states: jax.Array, image_size: int) -> Scores:
    """Scores the last state by its length, with nothing fitted."""
    return score(states[:, -1], image_size)


def with_standard_normal_in_part(
    reference: Reference | None, states: jax.Array, image_size: int
) -> Scores:
    """The same of states that are NaN where an image takes no part."""
    x_T, part = without_nan(states[:, -1])
    return score(x_T, image_size, part[..., 0])
