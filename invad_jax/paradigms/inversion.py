"""The method: x0 is carried to x_T by a few Euler steps, and x_T is compared with what is typical.

With `scoring.prior=standard_normal` that is N(0, I), as in the paper. A handful of steps does not
carry normal images there; with `fitted` x_T is compared with what normal images do become, by
position, and with `scoring.neighbours` x0 with vectors of normal images from anywhere.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.diffusion.inversion import EpsFn, invert
from invad_jax.normality import gaussian
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms.levels import rising_plan
from invad_jax.paradigms.paradigm import Paradigm
from invad_jax.scoring import Reference, Scores, score, score_under

OPTIONS = frozenset(
    f"inversion.{name}" for name in ("num_steps", "spacing", "final_alpha_bar", "use_ema")
)


def paradigm(config: Config) -> Paradigm:
    """Inversion under the prior of a config."""
    plan, scoring = rising_plan(config), config.scoring

    def x_T_alone(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        return invert(eps_fn, x0, plan)[:, None]  # (B, 1, h, w, C)

    def both_ends(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        return jnp.stack([x0, invert(eps_fn, x0, plan)], axis=1)  # (B, 2, h, w, C)

    found = Paradigm(
        nfe=len(plan.timesteps),
        states=x_T_alone,
        compare=_with_standard_normal,
        lessons=Lessons(),
        terms=("nll", "map_range"),
        options=OPTIONS | {"scoring.prior"},
        inverts=True,
    )
    if scoring.prior == "standard_normal":
        return found
    ends = scoring.states == "ends"
    fitted = ("states", "neighbours", "components")
    return found._replace(
        states=both_ends if ends or scoring.neighbours else x_T_alone,
        compare=score_under,
        lessons=Lessons(
            gaussians=gaussian.fit,
            last_states=2 if ends else 1,
            memory_bank=scoring.neighbours,
            components=scoring.components,
        ),
        terms=("map_top",),
        options=found.options | {f"scoring.{name}" for name in fitted},
    )


def _with_standard_normal(
    reference: Reference | None, states: jax.Array, image_size: int
) -> Scores:
    return score(states[:, -1], image_size)
