"""How untypical an inverted latent is: the vectorised Gaussian log-likelihood scorer.

All outputs rise with abnormality. Read next: `calibration.py` (one image score), `metrics.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Scores(NamedTuple):
    """What the scorer says of a batch."""

    anomaly_map: jax.Array
    """(B, H, W) float32: `latent_norm` upsampled to the image; a norm, not a likelihood."""
    latent_norm: jax.Array
    """(B, h, w) float32: Euclidean length of x_T at each position."""
    nll: jax.Array
    """(B,) float32, nats: -log N(x_T; 0, I) of the whole latent."""
    map_range: jax.Array
    """(B,) float32: largest minus smallest `latent_norm`; the paper's Diff."""


def score(x_T: jax.Array, image_size: int) -> Scores:
    """Scores inverted latents under N(0, I) (InvAD, section 3).

    Args:
      x_T: (B, h, w, C) float32.
      image_size: H = W of the anomaly map, pixels.
    """
    square = jnp.sum(jnp.square(x_T), axis=-1)  # (B, h, w)
    latent_norm = jnp.sqrt(square)
    dimensions = math.prod(x_T.shape[1:])
    nll = 0.5 * (jnp.sum(square, axis=(1, 2)) + dimensions * math.log(2 * math.pi))  # (B,)
    map_range = jnp.max(latent_norm, axis=(1, 2)) - jnp.min(latent_norm, axis=(1, 2))  # (B,)
    return Scores(upsample(latent_norm, image_size), latent_norm, nll, map_range)


def upsample(latent_norm: jax.Array, image_size: int) -> jax.Array:
    """Bilinear, half-pixel centres, no antialiasing: (B, h, w) -> (B, H, W)."""
    shape = (latent_norm.shape[0], image_size, image_size)
    return jax.image.resize(latent_norm, shape, method="bilinear", antialias=False)
