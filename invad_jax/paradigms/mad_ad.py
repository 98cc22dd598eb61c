"""MAD-AD (Beizaee et al., IPMI 2025): of a clean latent, what the network takes for masked is
denoised, and all else stays what it is.

Its DDIM draws noise at each step (eta 0.5). Here it does so with the noise that a caller hands
over; left to itself the path is deterministic, eta 0, so that no score depends on the place in a
batch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.diffusion.loss import perturb
from invad_jax.diffusion.parameterization import eps_from_sample
from invad_jax.paradigms import published_maps
from invad_jax.paradigms.corruption import by_chance, kept_cells, possible_sides
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.paradigms.objective import Drawn, Objective
from invad_jax.paradigms.paradigm import OutputsFn, Paradigm
from invad_jax.paradigms.restoring import of_difference, restoring
from invad_jax.paradigms.walk import falling_plan, require, states_of

ETA = 0.5
NORMAL = 0.5
"""Positions whose `mask` is at least this are left alone."""
SIDES = {1: 0.2, 2: 0.3, 4: 0.3, 8: 0.2}
"""Of cells, published; drawn for either axis."""
MOST_SPOILT = 0.4
MASK_WEIGHT = 0.001
"""Of the error of the mask beside that of x0."""


def paradigm(config: Config) -> Paradigm:
    """Restoring what is masked, compared by the largest change of a channel."""
    require(config, "inversion.paradigm=mad_ad", prediction="sample")
    plan = falling_plan(config)

    def path(
        outputs_fn: OutputsFn, x0: jax.Array, noise: jax.Array | None = None, **given: Any
    ) -> jax.Array:
        """`noise` (S, B, h, w, C), standard normal, makes it the published walk."""
        eta = 0.0 if noise is None else ETA
        if noise is None:
            noise = jnp.zeros((len(plan.timesteps), 1, 1, 1, 1))

        def step(x: jax.Array, level: Any) -> jax.Array:
            (t, alpha_bar, alpha_bar_next), its_noise = level
            found = outputs_fn(x, t[None], **given)
            moved = ddim_step(x, found["x0"], alpha_bar, alpha_bar_next, eta, its_noise)
            return jnp.where(found["mask"] < NORMAL, moved, x)

        return states_of(step, x0, (tuple(plan), noise), lambda x: x)

    asks = frozenset({"x0", "mask"})
    return restoring(config, path, plan.timesteps, asks, of_difference(_largest), _of_images)


def ddim_step(
    x: jax.Array,
    x0_hat: jax.Array,
    alpha_bar: jax.Array,
    alpha_bar_next: jax.Array,
    eta: float,
    noise: jax.Array,
) -> jax.Array:
    """DDIM with noise (Song et al. 2021, equations 12 and 16) from a predicted x0.

    Args:
      x: (B, h, w, C), at level `alpha_bar`.
      x0_hat: (B, h, w, C).
      alpha_bar: scalar in (0, 1).
      alpha_bar_next: scalar in (0, 1], the larger.
      eta: 0, no noise, to 1, that of the Markov chain.
      noise: standard normal, broadcasts against x.
    """
    eps = eps_from_sample(x, x0_hat, alpha_bar)
    kept = (1.0 - alpha_bar_next) / (1.0 - alpha_bar)
    variance = eta**2 * kept * (1.0 - alpha_bar / alpha_bar_next)
    direction = jnp.sqrt(jnp.maximum(1.0 - alpha_bar_next - variance, 0.0))
    return jnp.sqrt(alpha_bar_next) * x0_hat + direction * eps + jnp.sqrt(variance) * noise


def _largest(difference: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(difference), axis=-1)


def _of_images(
    image: jax.Array, restored_image: jax.Array, x0: jax.Array, restored: jax.Array
) -> jax.Array:
    return published_maps.mad_ad(image, restored_image)


def objective(config: Config) -> Objective:
    """x0, and which cells are as they were, from latents of which some are noisy."""
    require(config, "train.objective=mad_ad", prediction="sample")
    alpha_bar = jnp.asarray(alpha_bar_of(config), jnp.float32)

    def draw(latent: jax.Array, rng: jax.Array) -> Drawn:
        of_t, of_noise, of_ratio, of_sides, of_cells = jax.random.split(rng, 5)
        grid = latent.shape[1], latent.shape[2]
        ratio = MOST_SPOILT * jax.random.uniform(of_ratio, latent.shape[:1])
        by_axis = possible_sides(SIDES, grid).items()
        shares = {(a, b): p * q for a, p in by_axis for b, q in by_axis}
        return {
            "t": jax.random.randint(of_t, latent.shape[:1], 0, len(alpha_bar)),
            "noise": jax.random.normal(of_noise, latent.shape),
            "keep": by_chance(
                of_sides, shares, lambda sides: kept_cells(of_cells, ratio, grid, sides)
            ),
        }

    def loss(outputs_fn: OutputsFn, x0: jax.Array, drawn: Drawn) -> jax.Array:
        keep, t = drawn["keep"], drawn["t"]
        x_t = keep * x0 + (1.0 - keep) * perturb(x0, drawn["noise"], alpha_bar[t])
        found = outputs_fn(x_t, t)
        of_x0 = jnp.mean(jnp.square(found["x0"] - x0), axis=(1, 2, 3))
        return of_x0 + MASK_WEIGHT * jnp.mean(jnp.square(found["mask"] - keep), axis=(1, 2, 3))

    return Objective(draw, loss, says=(("x0", 0), ("mask", 1)))
