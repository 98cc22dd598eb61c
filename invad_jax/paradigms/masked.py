"""Masked diffusion: cells of a noisy latent are blanked, so that a network has to look further than
the cell itself to say what was there.

With as many cells at every level it is MDM; with more where there is more noise it is our reading
of OmiAD's teacher (AMDM; Feng et al., ICML 2025), whose code is not public. Either is evaluated by
`reconstruction`, without masks, or by inversion.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.diffusion.loss import perturb
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.paradigms.objective import Drawn, Objective
from invad_jax.paradigms.paradigm import OutputsFn
from invad_jax.paradigms.walk import require

MOST_MASKED = 0.75
"""Share of cells that is blanked where all is noise; or, of MDM, everywhere."""


def objective(config: Config, adaptive: bool) -> Objective:
    """Squared error of x0 over all cells."""
    require(config, f"train.objective={config.train.objective}", prediction="sample")
    alpha_bar = jnp.asarray(alpha_bar_of(config), jnp.float32)

    def draw(latent: jax.Array, rng: jax.Array) -> Drawn:
        of_t, of_noise, of_cells = jax.random.split(rng, 3)
        t = jax.random.randint(of_t, latent.shape[:1], 0, len(alpha_bar))
        share = masked_share(alpha_bar[t], adaptive)[:, None, None, None]
        scores = jax.random.uniform(of_cells, (*latent.shape[:3], 1))
        return {
            "t": t,
            "noise": jax.random.normal(of_noise, latent.shape),
            "keep": (scores >= share).astype(jnp.float32),
        }

    def loss(outputs_fn: OutputsFn, x0: jax.Array, drawn: Drawn) -> jax.Array:
        x_t = drawn["keep"] * perturb(x0, drawn["noise"], alpha_bar[drawn["t"]])
        error = outputs_fn(x_t, drawn["t"])["x0"] - x0
        return jnp.mean(jnp.square(error), axis=(1, 2, 3))

    return Objective(draw, loss, says=(("x0", 0),))


def masked_share(alpha_bar: jax.Array, adaptive: bool) -> jax.Array:
    """Probability that a cell is blanked, shaped as `alpha_bar`."""
    amount = jnp.sqrt(1.0 - alpha_bar) if adaptive else jnp.ones_like(alpha_bar)
    return MOST_MASKED * amount
