"""The method as one pure function: encode, standardise, invert, score.

What is here is what is trained, compiled, exported and served; nothing scores an image in another
way. What is compared with what, `paradigms/` says. Read next: `diffusion/inversion.py`, then
`scoring.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from invad_jax.diffusion.inversion import EpsFn
from invad_jax.scoring import Reference, Scores

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


class Detector(NamedTuple):
    """The pure functions of one detector; holds no array."""

    encode: Callable[[Params, jax.Array], jax.Array]
    """(encoder variables, image (B, H, W, 3) uint8) -> latent (B, h, w, C) float32."""
    denoise: Callable[[Params, jax.Array, jax.Array], jax.Array]
    """(denoiser params, x_t (B, h, w, C), t (1,) or (B,)) -> eps (B, h, w, C) float32."""
    states: Callable[[EpsFn, jax.Array], jax.Array]
    """(eps_fn, x0 (B, h, w, C)) -> what is compared, (B, M, h, w, C) float32."""
    compare: Callable[[Reference | None, jax.Array, int], Scores]
    """(reference, states, image size) -> scores."""
    inverts: bool
    """Whether the last state is x_T."""
    image_size: int

    def predict(self, variables: DetectorVariables, image: jax.Array) -> Scores:
        """Scores images.

        Args:
          variables: all arrays.
          image: (B, H, W, 3) uint8, RGB, H = W = image_size.
        """
        scores = self.score_latents(variables, self.encode(variables.encoder, image))
        return scores._replace(x_T=None)

    def score_latents(self, variables: DetectorVariables, latent: jax.Array) -> Scores:
        """Scores latents as they come from the encoder, (B, h, w, C) float32."""
        states = self.scored_states(variables, latent)  # (B, M, h, w, C)
        scores = self.compare(variables.reference, states, self.image_size)
        return scores._replace(x_T=states[:, -1] if self.inverts else None)

    def scored_states(self, variables: DetectorVariables, latent: jax.Array) -> jax.Array:
        """What of latents is compared, (B, M, h, w, C); what a reference is learnt from."""
        x0 = standardise(latent, variables.latent_stats)
        return self.states(lambda x, t: self.denoise(variables.denoiser, x, t), x0)


def standardise(latent: jax.Array, stats: LatentStats) -> jax.Array:
    """(latent - mean) / std per channel; (B, h, w, C) float32 in and out."""
    mean, std = (jnp.reshape(s, (1, 1, 1, -1)) for s in stats)
    return (latent - mean) / std
