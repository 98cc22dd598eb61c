"""One evaluation of the network: what it says of a fixed noise, less that noise.

A network that has learnt what normal latents are tells the noise in them apart; where it cannot,
something is not normal. One evaluation of the loss, in place of steps to x_T: Flow Mismatching
(arXiv 2605.23070) and OSD-IRF (arXiv 2604.18393) score by such an error too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import Config
from invad_jax.diffusion.inversion import EpsFn
from invad_jax.diffusion.loss import perturb
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.paradigms.paradigm import Paradigm
from invad_jax.paradigms.prior import under_prior, with_standard_normal


def paradigm(config: Config) -> Paradigm:
    """The length of eps(x_t, t) - noise at one t; or its distance from that of normal images.

    The noise is one draw a position, the same for every image, so that no score depends on the
    place in a batch.
    """
    alpha_bar = alpha_bar_of(config)
    t = round(config.inversion.noise_ratio * (len(alpha_bar) - 1))
    level = float(alpha_bar[t])

    def states(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        noise = jax.random.normal(jax.random.key(0), (1, *x0.shape[1:]))
        x_t = perturb(x0, noise, jnp.full(x0.shape[:1], level))
        return (eps_fn(x_t, jnp.asarray([t], np.int32)) - noise)[:, None]  # (B, 1, h, w, C)

    found = Paradigm(
        timesteps=(t,),
        states=states,
        compare=with_standard_normal,
        lessons=Lessons(),
        terms=("map_top",),
    )
    return under_prior(config, found)
