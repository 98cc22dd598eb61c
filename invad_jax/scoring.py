"""How untypical an inverted latent is: the vectorised Gaussian log-likelihood scorer.

All outputs rise with abnormality. Read next: `calibration.py` (one image score), `metrics.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Prior(NamedTuple):
    """A Gaussian for each position of x_T, N(mean, covariance), as the map that whitens it."""

    mean: jax.Array
    """(h, w, C) float32."""
    whitening: jax.Array
    """(h, w, C, C) float32: W with W covariance W^T = I, lower triangular."""
    log_det: jax.Array
    """() float32, nats: log det of all covariances together."""


class Scores(NamedTuple):
    """What the scorer says of a batch."""

    anomaly_map: jax.Array
    """(B, H, W) float32: `latent_norm` upsampled to the image; a norm, not a likelihood."""
    latent_norm: jax.Array
    """(B, h, w) float32: Euclidean length of x_T at each position, or its Mahalanobis distance from
    the normal images' mean where the prior is fitted."""
    nll: jax.Array
    """(B,) float32, nats: -log density of the whole x_T under the prior."""
    map_range: jax.Array
    """(B,) float32: largest minus smallest `latent_norm`; the paper's Diff."""


def score(x_T: jax.Array, image_size: int, prior: Prior | None = None) -> Scores:
    """Scores inverted latents under N(0, I) (InvAD, section 3), or under a fitted prior.

    Args:
      x_T: (B, h, w, C) float32.
      image_size: H = W of the anomaly map, pixels.
      prior: None for N(0, I).
    """
    z, log_det = (x_T, 0.0) if prior is None else (whiten(x_T, prior), prior.log_det)
    square = jnp.sum(jnp.square(z), axis=-1)  # (B, h, w)
    latent_norm = jnp.sqrt(square)
    constant = math.prod(x_T.shape[1:]) * math.log(2 * math.pi) + log_det
    nll = 0.5 * (jnp.sum(square, axis=(1, 2)) + constant)  # (B,)
    map_range = jnp.max(latent_norm, axis=(1, 2)) - jnp.min(latent_norm, axis=(1, 2))  # (B,)
    return Scores(upsample(latent_norm, image_size), latent_norm, nll, map_range)


def whiten(x_T: jax.Array, prior: Prior) -> jax.Array:
    """z = W (x_T - mean) at each position: N(0, I) if x_T follows the prior. (B, h, w, C)."""
    centred = x_T - prior.mean[None]
    # float32 products also where the hardware would round to fewer bits: W can be ill-conditioned.
    return jnp.einsum("hwij,bhwj->bhwi", prior.whitening, centred, precision="highest")


def upsample(latent_norm: jax.Array, image_size: int) -> jax.Array:
    """Bilinear, half-pixel centres, no antialiasing: (B, h, w) -> (B, H, W)."""
    shape = (latent_norm.shape[0], image_size, image_size)
    return jax.image.resize(latent_norm, shape, method="bilinear", antialias=False)
