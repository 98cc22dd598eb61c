"""The method: x0 is carried to x_T by a few Euler steps, and x_T is compared with what is typical.

With `scoring.prior=standard_normal` that is N(0, I), as in the paper. A handful of steps does not
carry normal images there; with `fitted` x_T is compared with what normal images do become, by
position.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from invad_jax.config import Config
from invad_jax.diffusion.inversion import EpsFn, angle_step, euler_step, invert, shrinkage
from invad_jax.geometry import in_part
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms.levels import rising_plan
from invad_jax.paradigms.paradigm import Paradigm
from invad_jax.paradigms.prior import (
    under_prior,
    with_standard_normal,
    with_standard_normal_in_part,
)


def paradigm(config: Config) -> Paradigm:
    """Inversion under the prior of a config."""
    white = config.train.latent_stats == "whiten"
    to_noise, timesteps = _to_noise(config, white)

    def states(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        return to_noise(eps_fn, x0)[:, None]  # (B, 1, h, w, C)

    found = Paradigm(
        timesteps=timesteps,
        states=in_part(states) if config.data.in_part else states,
        compare=with_standard_normal_in_part if config.data.in_part else with_standard_normal,
        lessons=Lessons(),
        terms=("map_top",) if white else ("nll", "map_range"),
        inverts=True,
    )
    return under_prior(config, found)


def _to_noise(
    config: Config, white: bool
) -> tuple[Callable[[EpsFn, jax.Array], jax.Array], tuple[int, ...]]:
    """The inversion of a config, and the timesteps at which it asks the network.

    Without steps, or from white latents without a trained network, x_T is x0, and none is asked.
    """
    if config.inversion.num_steps == 0 or (white and config.train.num_steps == 0):
        return lambda eps_fn, x0: x0, ()
    plan = rising_plan(config)
    step = angle_step if config.inversion.solver == "angle" else euler_step
    factor = shrinkage(plan) if white and step is euler_step else 1.0

    def to_noise(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        x_T = invert(eps_fn, x0, plan, step)
        return x_T / factor if factor != 1.0 else x_T

    return to_noise, tuple(plan.timesteps.tolist())
