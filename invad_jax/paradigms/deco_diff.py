"""DeCo-Diff (Beizaee et al., CVPR 2025): the network says how each position deviates from what is
normal, and a few steps subtract it. The image is never noised.

With r = sqrt(1 - ab) its x_t = x0 + r deviation, so that the path is Euler's in r.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.paradigms import published_maps
from invad_jax.paradigms.corruption import (
    by_chance,
    kept_cells,
    possible_sides,
    shuffled_patches,
)
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.paradigms.objective import Drawn, Objective
from invad_jax.paradigms.paradigm import OutputsFn, Paradigm
from invad_jax.paradigms.restoring import of_difference, restoring
from invad_jax.paradigms.walk import euler, falling_plan, require, states_of

SIDES = {1: 0.3, 2: 0.25, 4: 0.2, 8: 0.15, 16: 0.1}
"""Of the cells of a batch, published, and how often each is taken."""
MOST_SPOILT, MOST_SHUFFLED = 0.7, 0.3
"""Shares of cells; that of each image is drawn below them."""


CODE = 16
"""Channels in which a network that was not made for classes is told one (`denoisers/wide.py`)."""


def paradigm(config: Config) -> Paradigm:
    """Restoring by deviations, compared by their mean length a channel."""
    require(config, "inversion.paradigm=deco_diff", prediction="deviation")
    plan = falling_plan(config)

    label = config.inversion.label

    def path(outputs_fn: OutputsFn, x0: jax.Array, **given: Any) -> jax.Array:
        if label.isdigit() and "label" not in given:
            given["label"] = jnp.full(x0.shape[:1], int(label))

        def step(x: jax.Array, level: Any) -> jax.Array:
            t, radius, radius_next = level
            return euler(x, outputs_fn(x, t[None], **given)["deviation"], radius, radius_next)

        radii = (jnp.sqrt(1.0 - ab) for ab in (plan.alpha_bar, plan.alpha_bar_next))
        return states_of(step, x0, (plan.timesteps, *radii), lambda x: x)

    asks = frozenset({"deviation"})
    found = restoring(config, path, plan.timesteps, asks, of_difference(_mean_length), _two_spaces)
    if label == "none":
        return found
    lessons = found.lessons._replace(classes=label == "inferred")
    return found._replace(shows=frozenset({"label"}), lessons=lessons)


def _mean_length(difference: jax.Array) -> jax.Array:
    return jnp.mean(jnp.abs(difference), axis=-1)


def _two_spaces(
    image: jax.Array, restored_image: jax.Array, x0: jax.Array, restored: jax.Array
) -> jax.Array:
    return published_maps.deco_diff(image, restored_image, x0, restored)["geometric"]


def objective(config: Config, classes: bool) -> Objective:
    """The deviation of latents of which some cells are spoilt, by noise or by patches of others.

    Args:
      config: the experiment.
      classes: whether the network is told the category of each image, as published.
    """
    require(config, f"train.objective={config.train.objective}", prediction="deviation")
    alpha_bar = jnp.asarray(alpha_bar_of(config), jnp.float32)

    def draw(latent: jax.Array, rng: jax.Array) -> Drawn:
        of_t, of_noise, of_ratios, of_side, of_cells = jax.random.split(rng, 5)
        grid = latent.shape[1], latent.shape[2]
        ratios = jax.random.uniform(of_ratios, (2, len(latent)))

        def of(side: int) -> tuple[jax.Array, ...]:
            cells = len(latent) * (grid[0] // side) * (grid[1] // side)
            keys = jax.random.split(of_cells, 3)
            return (
                kept_cells(keys[0], MOST_SPOILT * ratios[0], grid, (side, side)),
                kept_cells(keys[1], MOST_SHUFFLED * ratios[1], grid, (side, side)),
                shuffled_patches(latent, jax.random.permutation(keys[2], cells), side),
            )

        keep, gaussian, shuffled = by_chance(of_side, possible_sides(SIDES, grid), of)
        return {
            "t": jax.random.randint(of_t, latent.shape[:1], 0, len(alpha_bar)),
            "noise": jax.random.normal(of_noise, latent.shape),
            "keep": keep,
            "gaussian": gaussian,
            "latent_shuffled": shuffled,
        }

    def loss(outputs_fn: OutputsFn, x0: jax.Array, drawn: Drawn) -> jax.Array:
        gaussian = drawn["gaussian"]
        noise = gaussian * drawn["noise"] + (1.0 - gaussian) * drawn["latent_shuffled"]
        x_t, target = spoilt(x0, drawn["keep"], noise, alpha_bar[drawn["t"]])
        told = {"label": drawn["label"]} if classes else {}
        error = outputs_fn(x_t, drawn["t"], **told)["deviation"] - target
        return jnp.mean(jnp.square(error), axis=(1, 2, 3))

    sees = (("label", CODE),) if classes else ()
    return Objective(draw, loss, says=(("deviation", 0),), sees=sees)


def spoilt(
    x0: jax.Array, keep: jax.Array, noise: jax.Array, alpha_bar: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """x_t, noisy where cells are not kept, and the deviation: x_t = x0 + sqrt(1 - ab) deviation.

    Args:
      x0: (B, h, w, C).
      keep: (B, h, w, 1), 1 or 0.
      noise: (B, h, w, C).
      alpha_bar: (B,).
    """
    level = alpha_bar[:, None, None, None]
    signal, spread = jnp.sqrt(level), jnp.sqrt(1.0 - level)
    deviation = (1.0 - keep) * (noise - (1.0 - signal) / spread * x0)
    return x0 + spread * deviation, deviation
