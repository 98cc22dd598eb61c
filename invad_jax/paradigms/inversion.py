"""The method: x0 is carried to x_T by a few Euler steps, and x_T is compared with what is typical.

With `scoring.prior=standard_normal` that is N(0, I), as in the paper. A handful of steps does not
carry normal images there; with `fitted` x_T is compared with what normal images do become, by
position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.diffusion.inversion import EpsFn, angle_step, euler_step, invert, shrinkage
from invad_jax.diffusion.loss import eps_loss, v_loss
from invad_jax.diffusion.parameterization import OUTPUT_OF, to_eps
from invad_jax.diffusion.schedule import Plan
from invad_jax.geometry import in_part, without_nan
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms.levels import alpha_bar_of, rising_plan
from invad_jax.paradigms.objective import Drawn, Objective, drawing_noise
from invad_jax.paradigms.paradigm import OutputsFn, Paradigm
from invad_jax.paradigms.prior import (
    under_prior,
    with_standard_normal,
    with_standard_normal_in_part,
)
from invad_jax.paradigms.walk import path_of


def paradigm(config: Config) -> Paradigm:
    """Inversion under the prior of a config."""
    white = config.train.latent_stats == "whiten"
    walk = _walk(config, white)

    def states(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        return walk.to_noise(eps_fn, x0)[:, None]  # (B, 1, h, w, C)

    def path(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        if not config.data.in_part:
            return walk.path(eps_fn, x0)
        x0, part = without_nan(x0)
        return jnp.where(part[None], walk.path(eps_fn, x0), jnp.nan)

    found = Paradigm(
        timesteps=walk.timesteps,
        states=in_part(states) if config.data.in_part else states,
        compare=with_standard_normal_in_part if config.data.in_part else with_standard_normal,
        lessons=Lessons(),
        terms=("map_top",) if white else ("nll", "map_range"),
        inverts=True,
        path=path,
    )
    return under_prior(config, found)


class _Walk(NamedTuple):
    """The inversion of a config."""

    to_noise: Callable[[EpsFn, jax.Array], jax.Array]
    """x0 -> x_T."""
    path: Callable[[EpsFn, jax.Array], jax.Array]
    """x0 -> (S + 1, B, h, w, C), of which the last is x_T."""
    timesteps: tuple[int, ...] = ()
    """At which it asks the network."""


def _walk(config: Config, white: bool) -> _Walk:
    """Without steps, or from white latents without a trained network, x_T is x0, and none is asked.

    What steps shrink white latents by is taken back, of each state.
    """
    if config.inversion.num_steps == 0 or (white and config.train.num_steps == 0):
        return _Walk(lambda eps_fn, x0: x0, lambda eps_fn, x0: x0[None])
    plan = rising_plan(config)
    step = angle_step if config.inversion.solver == "angle" else euler_step
    shrinks = white and step is euler_step
    factor = shrinkage(plan) if shrinks else 1.0

    def to_noise(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        x_T = invert(eps_fn, x0, plan, step)
        return x_T / factor if factor != 1.0 else x_T

    def path(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        states = path_of(eps_fn, x0, plan, step)
        if not shrinks:
            return states
        count = range(len(plan.timesteps) + 1)
        factors = [shrinkage(Plan(*(levels[:i] for levels in plan))) for i in count]
        return states / jnp.array(factors, jnp.float32)[:, None, None, None, None]

    return _Walk(to_noise, path, tuple(plan.timesteps.tolist()))


def objective(config: Config) -> Objective:
    """The noise, or v, over all positions that take part."""
    prediction, num_timesteps = config.diffusion.prediction, config.diffusion.num_timesteps
    output = OUTPUT_OF[prediction]

    def loss(outputs_fn: OutputsFn, x0: jax.Array, drawn: Drawn) -> jax.Array:
        alpha_bar = jnp.asarray(alpha_bar_of(config), jnp.float32)
        x0, part = without_nan(x0) if config.data.in_part else (x0, None)

        def ask(x_t: jax.Array, t: jax.Array) -> jax.Array:
            said = outputs_fn(x_t, t)[output]
            return said if of_v else to_eps(prediction, x_t, said, t, alpha_bar)

        of_v = prediction == "v"
        of_rows = v_loss if of_v else eps_loss
        return of_rows(ask, x0, drawn["t"], drawn["noise"], alpha_bar, part)

    return Objective(drawing_noise(num_timesteps), loss, says=((output, 0),))
