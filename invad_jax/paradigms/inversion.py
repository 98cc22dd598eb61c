"""The method: x0 is carried to x_T by a few Euler steps, and x_T is compared with what is typical.

With `scoring.prior=standard_normal` that is N(0, I), as in the paper. A handful of steps does not
carry normal images there; with `fitted` x_T is compared with what normal images do become, by
position, and with `scoring.neighbours` x0 with vectors of normal images from anywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.diffusion.inversion import EpsFn, angle_step, euler_step, invert, shrinkage
from invad_jax.normality import gaussian
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms.levels import rising_plan
from invad_jax.paradigms.paradigm import Paradigm
from invad_jax.scoring import Reference, Scores, score, score_under

OPTIONS = frozenset(
    f"inversion.{name}" for name in ("num_steps", "spacing", "final_alpha_bar", "solver", "use_ema")
)


def paradigm(config: Config) -> Paradigm:
    """Inversion under the prior of a config."""
    scoring, white = config.scoring, config.train.latent_stats == "whiten"
    to_noise, timesteps = _to_noise(config, white)

    def x_T_alone(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        return to_noise(eps_fn, x0)[:, None]  # (B, 1, h, w, C)

    def both_ends(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        return jnp.stack([x0, to_noise(eps_fn, x0)], axis=1)  # (B, 2, h, w, C)

    found = Paradigm(
        timesteps=timesteps,
        states=x_T_alone,
        compare=_with_standard_normal,
        lessons=Lessons(),
        terms=("map_top",) if white else ("nll", "map_range"),
        options=(OPTIONS if timesteps else frozenset()) | {"scoring.prior"},
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


def _to_noise(
    config: Config, white: bool
) -> tuple[Callable[[EpsFn, jax.Array], jax.Array], tuple[int, ...]]:
    """The inversion of a config, and the timesteps at which it asks the network.

    From white latents an untrained network leaves them as they are, and is not asked.
    """
    if white and config.train.num_steps == 0:
        return lambda eps_fn, x0: x0, ()
    plan = rising_plan(config)
    step = angle_step if config.inversion.solver == "angle" else euler_step
    factor = shrinkage(plan) if white and step is euler_step else 1.0

    def to_noise(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        x_T = invert(eps_fn, x0, plan, step)
        return x_T / factor if factor != 1.0 else x_T

    return to_noise, tuple(plan.timesteps.tolist())


def _with_standard_normal(
    reference: Reference | None, states: jax.Array, image_size: int
) -> Scores:
    return score(states[:, -1], image_size)
