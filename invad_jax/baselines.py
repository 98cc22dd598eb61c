"""Was the diffusion needed? Two detectors on the same latents that ask no denoiser.

PaDiM (Defard et al. 2021): a Gaussian for each position, scored by Mahalanobis distance.
PatchCore's core (Roth et al. 2022): the distance to the nearest latent vector of a normal image, at
any position. Both as `inversion.paradigm`, with everything else the same: encoder, latents,
calibration, report. Their own choices of network and of channels are not part of it.

Read next: `reference.py`, which keeps what they learn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax import gaussian, prior
from invad_jax.gaussian import Gaussian, Moments
from invad_jax.prior import Component, FittedPrior
from invad_jax.scoring import Scores, summarise

PADIM_REGULARISATION = 0.01
"""Times the identity, added to each covariance; published. It is meant for latents of about unit
variance, as `train.latent_stats=channel` makes them."""
MEMORY_SIZE = 20_000
"""Vectors that the memory keeps, drawn at random. PatchCore keeps a tenth, chosen greedily."""


class Memory(NamedTuple):
    """What the nearest neighbour is searched in."""

    vector: jax.Array | np.ndarray
    """(R, C) float32."""


def fit_padim(components: Iterable[Component]) -> FittedPrior:
    """The sample covariance of each position, regularised as published."""

    def estimate(of: Moments) -> Gaussian:
        unbiased = of.count / (of.count - 1)
        added = PADIM_REGULARISATION * np.eye(of.mean.shape[-1])
        return Gaussian(of.mean, gaussian.precision(unbiased * S + added for S in of.covariance), 0)

    return prior.fit(components, estimate)


def fit_memory(components: Iterable[Component], size: int = MEMORY_SIZE, seed: int = 0) -> Memory:
    """Vectors of all kinds and positions.

    Memory: the vectors of all images that were trained on.
    """
    batches = itertools.chain.from_iterable(component.states for component in components)
    vector = np.concatenate([batch.reshape(-1, batch.shape[-1]) for batch in batches])
    if len(vector) > size:
        chosen = np.random.default_rng(seed).choice(len(vector), size, replace=False)
        vector = vector[np.sort(chosen)]
    return Memory(vector)


def score_against(memory: Memory, x0: jax.Array, image_size: int) -> Scores:
    """The distance to the nearest vector, at each position.

    `nll` is half the sum of squares: no likelihood, but what a Gaussian around the nearest vector
    would give, less a constant.

    Args:
      memory: R vectors.
      x0: (B, h, w, C) float32.
      image_size: H = W of the anomaly map, pixels.
    """
    vector = jnp.asarray(memory.vector)
    length = jnp.sum(jnp.square(vector), axis=-1)  # (R,)

    def nearest(position: jax.Array) -> jax.Array:  # (hw, C) -> (hw,)
        products = jnp.matmul(position, vector.T, precision="highest")  # (hw, R)
        square = jnp.sum(jnp.square(position), axis=-1)
        return square + jnp.min(length[None, :] - 2 * products, axis=-1)

    B, h, w, C = x0.shape
    # One image after the other, as the distances of one are hw R numbers.
    square = jax.lax.map(nearest, jnp.reshape(x0, (B, h * w, C)))  # (B, hw)
    square = jnp.maximum(jnp.reshape(square, (B, h, w)), 0.0)
    return summarise(jnp.sqrt(square), 0.5 * jnp.sum(square, axis=(1, 2)), image_size)
