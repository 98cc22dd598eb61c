"""The method as one pure function: encode, standardise, invert, score.

What is here is what is trained, compiled, exported and served; nothing scores an image in another
way. Read next: `diffusion/inversion.py`, then `scoring.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from invad_jax.diffusion.inversion import EpsFn, scored_states
from invad_jax.diffusion.reconstruction import error_terms, reconstruction_error
from invad_jax.diffusion.schedule import Plan
from invad_jax.scoring import Reference, Scores, score, score_under, summarise

Params = Any
"""A pytree of arrays."""


class LatentStats(NamedTuple):
    """Per-channel statistics that bring latents to mean 0 and variance 1."""

    mean: jax.Array
    """(C,) float32."""
    std: jax.Array
    """(C,) float32, positive."""


class DetectorVariables(NamedTuple):
    """Every array that a detector needs."""

    encoder: Params
    denoiser: Params
    latent_stats: LatentStats
    reference: Reference | None = None
    """What latents are compared with; None: N(0, I), the paper's."""


class LatentScores(NamedTuple):
    """`Scores` and what was scored."""

    scores: Scores
    x_T: jax.Array | None  # noqa: N815, the field's own capital
    """(B, h, w, C) float32, the inverted latents; None where nothing is inverted."""

    def __getattr__(self, name: str) -> jax.Array:
        """A field of `scores` as one's own: `result.nll`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.scores, name)


@flax.struct.dataclass
class Detector:
    """The pure functions of one detector; holds no array but the plan of its inversion."""

    encode: Callable[[Params, jax.Array], jax.Array] = flax.struct.field(pytree_node=False)
    """(encoder variables, image (B, H, W, 3) uint8) -> latent (B, h, w, C) float32."""
    denoise: Callable[[Params, jax.Array, jax.Array], jax.Array] = flax.struct.field(
        pytree_node=False
    )
    """(denoiser params, x_t (B, h, w, C), t (1,) or (B,)) -> eps (B, h, w, C) float32."""
    plan: Plan
    image_size: int = flax.struct.field(pytree_node=False)
    states: str = flax.struct.field(pytree_node=False, default="x_T")
    """What is scored; see `diffusion.inversion.scored_states`."""
    noise: jax.Array | None = None
    """(1, h, w, C): the baseline, a reconstruction from this perturbation, instead of inversion."""

    @property
    def nfe(self) -> int:
        """Evaluations of the network an image."""
        return 0 if self.states == "x_0" else len(self.plan.timesteps)

    def predict(self, variables: DetectorVariables, image: jax.Array) -> Scores:
        """Scores images.

        Args:
          variables: all arrays.
          image: (B, H, W, 3) uint8, RGB, H = W = image_size.
        """
        return self.score_latents(variables, self.encode(variables.encoder, image)).scores

    def score_latents(self, variables: DetectorVariables, latent: jax.Array) -> LatentScores:
        """Scores latents as they come from the encoder, (B, h, w, C) float32."""
        if self.noise is not None:
            x0 = standardise(latent, variables.latent_stats)
            error = reconstruction_error(self._eps_fn(variables), x0, self.noise, self.plan)
            return LatentScores(summarise(*error_terms(error), self.image_size), x_T=None)
        states = self.scored_states(variables, latent)  # (B, M, h, w, C)
        x_T = None if self.states == "x_0" else states[:, -1]
        reference = variables.reference
        if reference is None:
            return LatentScores(score(states[:, -1], self.image_size), x_T)
        return LatentScores(score_under(reference, states, self.image_size), x_T)

    def scored_states(self, variables: DetectorVariables, latent: jax.Array) -> jax.Array:
        """What of latents is scored, (B, M, h, w, C); what a reference is learnt from."""
        x0 = standardise(latent, variables.latent_stats)
        return scored_states(self.states, self._eps_fn(variables), x0, self.plan)

    def _eps_fn(self, variables: DetectorVariables) -> EpsFn:
        return lambda x, t: self.denoise(variables.denoiser, x, t)


def standardise(latent: jax.Array, stats: LatentStats) -> jax.Array:
    """(latent - mean) / std per channel; (B, h, w, C) float32 in and out."""
    mean, std = (jnp.reshape(s, (1, 1, 1, -1)) for s in stats)
    return (latent - mean) / std
