"""The baseline that inversion replaces: perturb, denoise back, look at what came back changed."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.diffusion.inversion import EpsFn
from invad_jax.diffusion.loss import perturb
from invad_jax.diffusion.reconstruction import reconstruct, reconstruction_plan
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms.levels import alpha_bar_of, timesteps_of
from invad_jax.paradigms.paradigm import Paradigm
from invad_jax.paradigms.walk import path_of
from invad_jax.scoring import Reference, Scores, summarise


def paradigm(config: Config) -> Paradigm:
    """Reconstruction from one fixed noise, so that no score depends on the place in a batch."""
    plan = reconstruction_plan(
        alpha_bar_of(config), timesteps_of(config), config.inversion.noise_ratio
    )

    def noise_of(x0: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.key(0), (1, *x0.shape[1:]))

    def states(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        error = jnp.square(reconstruct(eps_fn, x0, noise_of(x0), plan) - x0)
        return error[:, None]  # (B, 1, h, w, C)

    def path(eps_fn: EpsFn, x0: jax.Array) -> jax.Array:
        first = jnp.broadcast_to(plan.alpha_bar[0], x0.shape[:1])
        return path_of(eps_fn, perturb(x0, noise_of(x0), first), plan)

    return Paradigm(
        timesteps=tuple(plan.timesteps.tolist()),
        states=states,
        compare=_by_itself,
        lessons=Lessons(),
        terms=("nll", "map_range"),
        path=path,
    )


def _by_itself(reference: Reference | None, states: jax.Array, image_size: int) -> Scores:
    """The published image score is the mean squared error of the latent; `nll` is h w C times that,
    which no fusion can tell apart, as each scales its terms."""
    error = states[:, 0]  # (B, h, w, C)
    return summarise(jnp.mean(error, axis=-1), jnp.sum(error, axis=(1, 2, 3)), image_size)
