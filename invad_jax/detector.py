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

from invad_jax.diffusion.inversion import invert
from invad_jax.diffusion.reconstruction import error_terms, reconstruction_error
from invad_jax.diffusion.schedule import Plan
from invad_jax.scoring import Prior, Scores, score, upsample

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
    prior: Prior | None = None
    """What x_T is compared with; None: N(0, I), the paper's."""


class LatentScores(NamedTuple):
    """`Scores` and what was scored."""

    anomaly_map: jax.Array
    latent_norm: jax.Array
    nll: jax.Array
    map_range: jax.Array
    x_T: jax.Array | None  # noqa: N815, the field's own capital
    """(B, h, w, C) float32, the inverted latents; None of a reconstruction, which has none."""

    def scores(self) -> Scores:
        """Without `x_T`, which is by far the largest: what predicting brings back to the host."""
        return Scores(self.anomaly_map, self.latent_norm, self.nll, self.map_range)


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
    noise: jax.Array | None = None
    """(1, h, w, C): the baseline, a reconstruction from this perturbation, instead of inversion."""

    def predict(self, variables: DetectorVariables, image: jax.Array) -> Scores:
        """Scores images.

        Args:
          variables: all arrays.
          image: (B, H, W, 3) uint8, RGB, H = W = image_size.
        """
        return self.score_latents(variables, self.encode(variables.encoder, image)).scores()

    def score_latents(self, variables: DetectorVariables, latent: jax.Array) -> LatentScores:
        """Scores latents as they come from the encoder, (B, h, w, C) float32."""

        def eps_fn(x: jax.Array, t: jax.Array) -> jax.Array:
            return self.denoise(variables.denoiser, x, t)

        x0 = standardise(latent, variables.latent_stats)
        if self.noise is None:
            x_T = invert(eps_fn, x0, self.plan)  # (B, h, w, C)
            return LatentScores(*score(x_T, self.image_size, variables.prior), x_T)
        terms = error_terms(reconstruction_error(eps_fn, x0, self.noise, self.plan))
        return LatentScores(upsample(terms.latent_norm, self.image_size), *terms, x_T=None)


def standardise(latent: jax.Array, stats: LatentStats) -> jax.Array:
    """(latent - mean) / std per channel; (B, h, w, C) float32 in and out."""
    mean, std = (jnp.reshape(s, (1, 1, 1, -1)) for s in stats)
    return (latent - mean) / std
