"""How untypical an inverted latent is: the vectorised Gaussian log-likelihood scorer.

All scores rise with abnormality. `score` is the paper's, under N(0, I); `score_under` compares with
Gaussians that were fitted on normal images (`prior.py`). Read next: `calibration.py` (one image
score), `metrics.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

_TOP_SHARE = 10  # `map_top` averages one position in so many


class Prior(NamedTuple):
    """A mixture of K Gaussians over M states, independent from position to position.

    A product of `projection` with a centred state gives r numbers a position. With r = C it whitens
    (`inv_std` is None): their squares add up to the Mahalanobis distance. With r < C the covariance
    is low rank plus diagonal, and by Woodbury's identity their squares are what the distance under
    the diagonal alone exceeds the Mahalanobis distance by.
    """

    mean: jax.Array
    """(K, M, h, w, C) float32."""
    projection: jax.Array
    """(K, M, h, w, r, C) float32."""
    inv_std: jax.Array | None
    """(K, M, h, w, C) float32 of the diagonal; None where `projection` whitens."""
    log_det: jax.Array
    """(K,) float32, nats: log det of all covariances of a component together."""
    log_weight: jax.Array
    """(K,) float32: log of the share of normal images that a component stands for."""


class Scores(NamedTuple):
    """What the scorer says of a batch."""

    anomaly_map: jax.Array
    """(B, H, W) float32: `latent_norm` upsampled to the image; a norm, not a likelihood."""
    latent_norm: jax.Array
    """(B, h, w) float32: Euclidean length of x_T at each position, or its Mahalanobis distance from
    the normal images' mean where the prior is fitted."""
    nll: jax.Array
    """(B,) float32, nats: -log density of all that is scored, under the prior."""
    map_range: jax.Array
    """(B,) float32: largest minus smallest `latent_norm`; the paper's Diff."""
    map_mean: jax.Array
    """(B,) float32: mean of `latent_norm`."""
    map_max: jax.Array
    """(B,) float32: largest `latent_norm`."""
    map_top: jax.Array
    """(B,) float32: mean of the highest tenth of `latent_norm`, at least one position."""
    component: jax.Array
    """(B,) int32: the likeliest component of the prior; 0 where there is one, or none."""


def score(x_T: jax.Array, image_size: int) -> Scores:
    """Scores inverted latents under N(0, I) (InvAD, section 3).

    Args:
      x_T: (B, h, w, C) float32.
      image_size: H = W of the anomaly map, pixels.
    """
    square = jnp.sum(jnp.square(x_T), axis=-1)  # (B, h, w)
    constant = math.prod(x_T.shape[1:]) * math.log(2 * math.pi)
    nll = 0.5 * (jnp.sum(square, axis=(1, 2)) + constant)  # (B,)
    return summarise(jnp.sqrt(square), nll, image_size)


def score_under(prior: Prior, states: jax.Array, image_size: int) -> Scores:
    """Scores latents under a fitted prior.

    The map is that of the likeliest component: what an image is compared with should be one kind of
    product, not an average of several.

    Args:
      prior: of K components.
      states: (B, M, h, w, C) float32, the latents that are scored together.
      image_size: H = W of the anomaly map, pixels.
    """
    square = jax.lax.map(lambda k: mahalanobis(prior, k, states), jnp.arange(len(prior.log_det)))
    square = jnp.sum(square, axis=2)  # (K, B, h, w)
    constant = math.prod(states.shape[1:]) * math.log(2 * math.pi)
    nll = 0.5 * (jnp.sum(square, axis=(2, 3)) + prior.log_det[:, None] + constant)  # (K, B)
    joint = prior.log_weight[:, None] - nll  # (K, B)
    component = jnp.argmax(joint, axis=0)  # (B,)
    its_square = jnp.take_along_axis(square, component[None, :, None, None], axis=0)[0]  # (B, h, w)
    total = -jax.nn.logsumexp(joint, axis=0)  # (B,)
    return summarise(jnp.sqrt(its_square), total, image_size, component)


def mahalanobis(prior: Prior, k: int | jax.Array, states: jax.Array) -> jax.Array:
    """Squared distances from component k: states (B, M, h, w, C) -> (B, M, h, w)."""
    centred = states - prior.mean[k][None]
    # float32 products also where the hardware would round to fewer bits: W can be ill-conditioned.
    projected = jnp.einsum(
        "mhwrc,bmhwc->bmhwr", prior.projection[k], centred, precision="highest"
    )  # (B, M, h, w, r)
    square = jnp.sum(jnp.square(projected), axis=-1)
    if prior.inv_std is None:
        return square
    of_diagonal = jnp.sum(jnp.square(centred * prior.inv_std[k][None]), axis=-1)
    return jnp.maximum(of_diagonal - square, 0.0)


def summarise(
    latent_norm: jax.Array,
    nll: jax.Array,
    image_size: int,
    component: jax.Array | None = None,
) -> Scores:
    """All scores that follow from a map on the grid.

    Args:
      latent_norm: (B, h, w) float32.
      nll: (B,) float32.
      image_size: H = W of the anomaly map, pixels.
      component: (B,) int32; None: 0.
    """
    flat = jnp.reshape(latent_norm, (latent_norm.shape[0], -1))  # (B, hw)
    highest = jax.lax.top_k(flat, max(1, flat.shape[1] // _TOP_SHARE))[0]
    return Scores(
        anomaly_map=upsample(latent_norm, image_size),
        latent_norm=latent_norm,
        nll=nll,
        map_range=jnp.max(flat, axis=1) - jnp.min(flat, axis=1),
        map_mean=jnp.mean(flat, axis=1),
        map_max=jnp.max(flat, axis=1),
        map_top=jnp.mean(highest, axis=1),
        component=jnp.zeros(len(nll), jnp.int32) if component is None else component,
    )


def upsample(latent_norm: jax.Array, image_size: int) -> jax.Array:
    """Bilinear, half-pixel centres, no antialiasing: (B, h, w) -> (B, H, W)."""
    shape = (latent_norm.shape[0], image_size, image_size)
    return jax.image.resize(latent_norm, shape, method="bilinear", antialias=False)
