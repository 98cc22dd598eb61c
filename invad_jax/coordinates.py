"""Coordinates in which normal latents are N(0, I), so that inversion starts where a Gaussian ends.

A latent is compared with what normal images showed around each position: the mean of their vectors
nearby, weighted by exp(-d^2 / 2 s^2), is the optimal denoiser of that empirical distribution at
noise s. What is left is whitened, by a Gaussian of each position and kind of product. In these
coordinates log N(0, I) of the latent itself is a squared Mahalanobis distance, and a network that
predicts v and begins with v = 0 is the exact denoiser: training can only add what is not known.

With no bank of images the mean is that of the Gaussian, and the distance is PaDiM's. Retrieval
among similar images and near positions is after RAD (arXiv 2601.22763). Read next:
`diffusion/inversion.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from invad_jax.scoring import Prior, choose_component


class ImageBank(NamedTuple):
    """Latents of N normal images."""

    latent: jax.Array
    """(h, w, N, C) float16 or float32, standardised; the vectors of a position lie together."""
    descriptor: jax.Array
    """(N, C) float32 of length 1: the mean over positions; similar images have a high product."""
    kind: jax.Array
    """(N,) int32: the kind of product."""
    bandwidth: jax.Array
    """(K, h, w) float32: s^2 of the weights for each kind, in squared distances of vectors."""


class Neighbourhood(NamedTuple):
    """Where vectors are looked for."""

    radius: int
    """Positions away, in both directions."""
    images: int
    """How many of the most similar normal images."""
    rounds_over: int | None = None
    """Devices, each of which takes one image after the other (`in_rounds`); None: all at once."""


class Coordinates(NamedTuple):
    """What takes a standardised latent to N(0, I)."""

    gaussians: Prior
    """Of one state (M = 1): of latents, or of what is left of them after the local mean."""
    bank: ImageBank | None = None


def whiten(
    coordinates: Coordinates, where: Neighbourhood, x0: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Standardised latents in the coordinates of normal ones.

    Args:
      coordinates: learnt of normal images.
      where: used with a bank.
      x0: (B, h, w, C) float32.

    Returns:
      u, (B, h, w, C) float32, and the kind of product, (B,) int32. If x0 is normal, u is N(0, I)
      but for what `whitening.identity` adds to the covariance: its variance is below 1.
    """
    gaussians, bank = coordinates
    if bank is None:
        rest, component = x0, choose_component(gaussians, x0[:, None])  # (B,)
    else:
        component = bank.kind[jnp.argmax(similarity(bank, x0), axis=-1)]  # of the nearest image
        rest = x0 - local_mean(bank, where, x0, component)
    return whiten_as(gaussians, rest, component), component


def whiten_as(gaussians: Prior, rest: jax.Array, component: jax.Array) -> jax.Array:
    """Whitens (B, h, w, C) under given components (B,): each kind in turn, for the whole batch."""

    def add(u: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
        its = (component == k)[:, None, None, None]
        return jnp.where(its, _whiten_under(gaussians, k, rest), u), None

    return jax.lax.scan(add, jnp.zeros_like(rest), jnp.arange(len(gaussians.log_det)))[0]


def _whiten_under(gaussians: Prior, k: jax.Array, rest: jax.Array) -> jax.Array:
    """Whitens (B, h, w, C) under component k."""
    product = functools.partial(jnp.einsum, precision="highest")
    centred = rest - gaussians.mean[k, 0][None]  # (B, h, w, C)
    projection = gaussians.projection[k, 0]  # (h, w, r, C)
    if gaussians.inv_std is None:
        return product("hwrc,bhwc->bhwr", projection, centred)
    # Low rank plus diagonal: |s|^2 - |P s|^2 with orthogonal rows p of P is |u|^2 for
    # u = s - sum of p (p . s) (1 - sqrt(1 - |p|^2)) / |p|^2.
    inv_std = gaussians.inv_std[k, 0]
    scaled = centred * inv_std[None]  # (B, h, w, C)
    rows = projection / inv_std[..., None, :]  # (h, w, r, C)
    square = jnp.sum(jnp.square(rows), axis=-1)  # (h, w, r), below 1
    gain = (1 - jnp.sqrt(jnp.maximum(1 - square, 0))) / jnp.maximum(square, 1e-12)
    along = gain[None] * product("hwrc,bhwc->bhwr", rows, scaled)
    return scaled - product("hwrc,bhwr->bhwc", rows, along)


def local_mean(
    bank: ImageBank,
    where: Neighbourhood,
    x0: jax.Array,
    kind: jax.Array,
    itself: jax.Array | None = None,
) -> jax.Array:
    """What normal images showed around each position, weighted by how near it comes.

    Args:
      bank: of N images.
      where: the neighbourhood.
      x0: (B, h, w, C) float32.
      kind: (B,) int32, of product.
      itself: (B,) int32: an image of the bank that is left out for each; -1 or None: none.

    Returns:
      (B, h, w, C) float32.
    """

    def of_one(x: jax.Array, latent: jax.Array, excluded: jax.Array, s2: jax.Array) -> jax.Array:
        distance = _distances(latent, where.radius, x, excluded)  # (h, w, O, k)
        weight = jax.nn.softmax(-0.5 * distance / s2[..., None, None], axis=(-2, -1))
        return _weighted_sum(latent, where.radius, weight)

    bandwidth = jnp.take(bank.bandwidth, kind, axis=0)  # (B, h, w)
    return _per_image(bank, where, x0, itself, of_one, bandwidth)


def local_distance(
    bank: ImageBank, where: Neighbourhood, x0: jax.Array, itself: jax.Array | None = None
) -> jax.Array:
    """Squared distance to the nearest vector of normal images around each position, (B, h, w).

    Arguments as `local_mean`; the bank's `kind` and `bandwidth` are not used.
    """

    def of_one(x: jax.Array, latent: jax.Array, excluded: jax.Array) -> jax.Array:
        return jnp.min(_distances(latent, where.radius, x, excluded), axis=(-2, -1))

    return _per_image(bank, where, x0, itself, of_one)


def similarity(bank: ImageBank, x0: jax.Array) -> jax.Array:
    """How similar images are to those of the bank: (B, h, w, C) -> (B, N), at most 1."""
    return jnp.einsum("bc,nc->bn", describe(x0), bank.descriptor, precision="highest")


def describe(x0: jax.Array) -> jax.Array:
    """One vector an image, of length 1: (B, h, w, C) -> (B, C)."""
    mean = jnp.nanmean(x0, axis=(1, 2))  # of the positions that take part
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def _per_image(
    bank: ImageBank,
    where: Neighbourhood,
    x0: jax.Array,
    itself: jax.Array | None,
    of_one: Callable[..., jax.Array],
    *more: jax.Array,
) -> jax.Array:
    """Runs `of_one(x, latents of its similar images, which of them to leave out, *more)`."""
    count = len(bank.kind)
    similar = similarity(bank, x0)  # (B, N)
    if itself is not None:
        similar = jnp.where(jnp.arange(count)[None, :] == itself[:, None], -jnp.inf, similar)
    # A sort stays on its device; `top_k` would gather the whole batch.
    chosen = jnp.argsort(-similar, axis=-1)[:, : min(where.images, count)]  # (B, k)
    left_out = jnp.take_along_axis(similar, chosen, axis=-1) == -jnp.inf

    def one(row: tuple[jax.Array, ...]) -> jax.Array:
        x, chosen, left_out, *its = row
        latent = jnp.take(bank.latent, chosen, axis=2).astype(jnp.float32)  # (h, w, k, C)
        return of_one(x, latent, left_out, *its)

    each = jax.vmap(lambda *row: one(row))
    return in_rounds(each, where.rounds_over, x0, chosen, left_out, *more)


def in_rounds(
    function: Callable[..., jax.Array], num_devices: int | None, *rows: jax.Array
) -> jax.Array:
    """Runs a function of rows, each by itself, on one row of each device at a time.

    What one image needs on its way then stays in the caches of a CPU.

    Args:
      function: (B, ...) arrays -> (B, ...); pure, and no row asks another.
      num_devices: over which the rows are split evenly; None, or rows that are not: all at once.
      rows: (B, ...) each.
    """
    B = rows[0].shape[0]
    if num_devices is None or B % num_devices or num_devices == B:
        return function(*rows)

    def by_device(array: jax.Array) -> jax.Array:  # (B, ...) -> (rounds, devices, ...)
        return jnp.moveaxis(array.reshape(num_devices, -1, *array.shape[1:]), 1, 0)

    found: jax.Array = jax.lax.map(lambda some: function(*some), tuple(map(by_device, rows)))
    return jnp.moveaxis(found, 1, 0).reshape(B, *found.shape[2:])


def _offsets(radius: int) -> list[tuple[int, int]]:
    around = range(-radius, radius + 1)
    return [(dy, dx) for dy in around for dx in around]


def _shifted(array: jax.Array, dy: int, dx: int, fill: float) -> jax.Array:
    """array[y + dy, x + dx] at (y, x), `fill` outside; array is (h, w, ...)."""
    h, w = array.shape[:2]
    pad = [(abs(dy), abs(dy)), (abs(dx), abs(dx))] + [(0, 0)] * (array.ndim - 2)
    padded = jnp.pad(array, pad, constant_values=fill)
    return jax.lax.slice_in_dim(
        jax.lax.slice_in_dim(padded, abs(dy) + dy, abs(dy) + dy + h, axis=0),
        abs(dx) + dx,
        abs(dx) + dx + w,
        axis=1,
    )


def _distances(latent: jax.Array, radius: int, x: jax.Array, excluded: jax.Array) -> jax.Array:
    """Squared distances of x (h, w, C) to k images at O offsets, (h, w, O, k); infinite outside.

    Each position of the images meets the few x around it, so the images are read once and no window
    of theirs is copied.
    """
    offsets = _offsets(radius)
    around = jnp.stack([_shifted(x, -dy, -dx, 0.0) for dy, dx in offsets], axis=2)  # (h, w, O, C)
    product = jnp.einsum("hwoc,hwkc->hwok", around, latent, precision="highest")
    square = jnp.where(excluded, jnp.inf, jnp.sum(jnp.square(latent), axis=-1))  # (h, w, k)
    less = square[:, :, None] - 2 * product  # at the position of the image
    here = [_shifted(less[:, :, o], dy, dx, jnp.inf) for o, (dy, dx) in enumerate(offsets)]
    own = jnp.sum(jnp.square(x), axis=-1)
    return jnp.maximum(own[:, :, None, None] + jnp.stack(here, axis=2), 0.0)


def _weighted_sum(latent: jax.Array, radius: int, weight: jax.Array) -> jax.Array:
    """Sum of the vectors of k images at O offsets, (h, w, O, k) weights -> (h, w, C)."""
    offsets = _offsets(radius)
    there = [_shifted(weight[:, :, o], -dy, -dx, 0.0) for o, (dy, dx) in enumerate(offsets)]
    parts = jnp.einsum("hwok,hwkc->hwoc", jnp.stack(there, axis=2), latent, precision="highest")
    return sum(
        (_shifted(parts[:, :, o], dy, dx, 0.0) for o, (dy, dx) in enumerate(offsets)),
        start=jnp.zeros(parts.shape[:2] + parts.shape[3:], parts.dtype),
    )
