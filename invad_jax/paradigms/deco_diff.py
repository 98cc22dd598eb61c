"""DeCo-Diff (Beizaee et al., CVPR 2025): the network says how each position deviates from what is
normal, and a few steps subtract it. The image is never noised.

With r = sqrt(1 - ab) its x_t = x0 + r deviation, so that the path is Euler's in r.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.paradigms.paradigm import OutputsFn, Paradigm
from invad_jax.paradigms.restoring import compare_by, restoring
from invad_jax.paradigms.walk import euler, falling_plan, require, states_of


def paradigm(config: Config) -> Paradigm:
    """Restoring by deviations, compared by their mean length a channel."""
    require(config, prediction="deviation")
    plan = falling_plan(config)

    def path(outputs_fn: OutputsFn, x0: jax.Array, **given: Any) -> jax.Array:
        def step(x: jax.Array, level: Any) -> jax.Array:
            t, radius, radius_next = level
            return euler(x, outputs_fn(x, t[None], **given)["deviation"], radius, radius_next)

        radii = (jnp.sqrt(1.0 - ab) for ab in (plan.alpha_bar, plan.alpha_bar_next))
        return states_of(step, x0, (plan.timesteps, *radii), lambda x: x)

    asks = frozenset({"deviation"})
    return restoring(config, path, plan.timesteps, asks, compare_by(_mean_length))


def _mean_length(difference: jax.Array) -> jax.Array:
    return jnp.mean(jnp.abs(difference), axis=-1)
