"""How untypical an inverted latent is: the vectorised Gaussian log-likelihood scorer.

All scores rise with abnormality. `score` is the paper's, under N(0, I); others compare with what
was learnt of normal images: `score_under` with a Gaussian of each position
(`normality/mixture.py`), `score_nearest` with vectors from anywhere (`normality/memory_bank.py`).
Read next: `normality/calibration.py` (one image score), `metrics.py`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_TOP_SHARE = 50  # `map_top` averages one position in so many
_VECTORS_AT_A_TIME = 1024  # of a memory: their distances are B h w times as many numbers


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
    """(K, h, w) float32, nats: log det of the covariances of a position, all states together."""
    log_weight: jax.Array
    """(K,) float32: log of the share of normal images that a component stands for."""


class Memory(NamedTuple):
    """R vectors of x0 of normal images, each of one position, wherever it was.

    A mixture of Gaussians too: one around each vector, all of one variance, of which only the
    nearest counts.
    """

    vector: jax.Array
    """(R, C) float32."""
    kind: jax.Array
    """(R,) int32: the kind of product that each comes from."""
    inv_std: jax.Array
    """() float32: of those Gaussians."""


class Reference(NamedTuple):
    """What was learnt of normal images, of which each way of comparing takes its own."""

    prior: Prior | None = None
    memory: Memory | None = None
    bank: Any = None
    """`coordinates.ImageBank`."""
    classes: Prior | None = None
    """By which the class of an image is told from its x0."""
    label: jax.Array | None = None
    """(K,) int32: the number of the class that each of them is."""


class Scores(NamedTuple):
    """What the scorer says of a batch."""

    anomaly_map: jax.Array | None
    """(B, H, W) float32: `latent_norm` upsampled to the image; a norm, not a likelihood. None
    where it was left on the grid: nothing but pixel metrics and pictures look at it."""
    latent_norm: jax.Array
    """(B, h, w) float32: Euclidean length of x_T at each position, or its distance from what was
    learnt of normal images, in units of their own spread; NaN where a position takes no part."""
    nll: jax.Array
    """(B,) float32, nats: -log density of all that is scored, under the prior; of a memory, the
    density of the nearest vectors' Gaussians."""
    map_range: jax.Array
    """(B,) float32: largest minus smallest `latent_norm`; the paper's Diff."""
    map_mean: jax.Array
    """(B,) float32: mean of `latent_norm`."""
    map_max: jax.Array
    """(B,) float32: largest `latent_norm`."""
    map_top: jax.Array
    """(B,) float32: mean of the highest fiftieth of `latent_norm`, at least one position."""
    component: jax.Array
    """(B,) int32: the likeliest kind of product; 0 where there is one, or nothing was learnt."""
    x_T: jax.Array | None = None  # noqa: N815, the field's own capital
    """(B, h, w, C) float32, the inverted latents, where latents were scored and inverted."""
    extent: jax.Array | None = None
    """(B, 2) int32, rows and columns of the square that an image fills; None: all."""


def score(x_T: jax.Array, image_size: int, part: jax.Array | None = None) -> Scores:
    """Scores inverted latents under N(0, I) (InvAD, section 3).

    Args:
      x_T: (B, h, w, C) float32.
      image_size: H = W of the anomaly map, pixels.
      part: (B, h, w) bool, positions that take part; None: all. Of an empty one nothing is finite.
    """
    square = jnp.sum(jnp.square(x_T), axis=-1)  # (B, h, w)
    if part is None:
        count: Any = math.prod(square.shape[1:])
    else:
        count, square = jnp.sum(part, axis=(1, 2)), jnp.where(part, square, 0.0)
    constant = count * (x_T.shape[-1] * math.log(2 * math.pi))
    nll = 0.5 * (jnp.sum(square, axis=(1, 2)) + constant)  # (B,)
    return summarise(jnp.sqrt(square), nll, image_size, part=part)


def score_under(reference: Reference, states: jax.Array, image_size: int) -> Scores:
    """Scores latents, (B, M, h, w, C) float32, under the prior that was learnt.

    An image is compared with one kind of product, not with an average of several: the one that is
    likeliest by the half of the positions that suit it best. An anomaly may be large, and shall
    not decide what it is held against.
    """
    prior = reference.prior
    assert prior is not None
    square = _squares(prior, states)  # (K, B, h, w)
    energy, component = _energy_and_component(prior, square)
    its_square = jnp.take_along_axis(square, component[None, :, None, None], axis=0)[0]  # (B, h, w)
    constant = math.prod(states.shape[1:]) * math.log(2 * math.pi)
    joint = prior.log_weight[:, None] - 0.5 * (jnp.sum(energy, axis=-1) + constant)  # (K, B)
    nll = -jax.nn.logsumexp(joint, axis=0)  # (B,)
    return summarise(jnp.sqrt(its_square), nll, image_size, component)


def choose_component(prior: Prior, states: jax.Array) -> jax.Array:
    """The component that the better half of an image suits best, (B, M, h, w, C) -> (B,) int32."""
    if len(prior.log_det) == 1:
        return jnp.zeros(states.shape[:1], jnp.int32)
    return _energy_and_component(prior, _squares(prior, states))[1]


def _squares(prior: Prior, states: jax.Array) -> jax.Array:
    """Squared distances from every component, all states together, (K, B, h, w)."""
    square = jax.lax.map(lambda k: mahalanobis(prior, k, states), jnp.arange(len(prior.log_det)))
    return jnp.sum(square, axis=2)


def _energy_and_component(prior: Prior, square: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Twice -log density but for a constant, (K, B, hw), and the component (B,)."""
    K, B = square.shape[:2]
    energy = jnp.reshape(square + prior.log_det[:, None], (K, B, -1))  # (K, B, hw)
    ranked = jnp.sort(energy, axis=-1)  # NaN, of positions that take no part, last
    count = jnp.sum(jnp.isfinite(energy), axis=-1, keepdims=True)
    better = jnp.arange(energy.shape[-1])[None, None] < (count + 1) // 2
    half = jnp.sum(jnp.where(better, ranked, 0.0), axis=-1)
    return energy, jnp.argmax(prior.log_weight[:, None] - 0.5 * half, axis=0)


def score_nearest(reference: Reference, states: jax.Array, image_size: int) -> Scores:
    """Scores x0, the first state, by its distance from the vectors that were learnt.

    The component is the commonest kind of the nearest vectors.
    """
    memory, x0 = reference.memory, states[:, 0]  # (B, h, w, C)
    assert memory is not None
    distance, index = nearest(memory.vector, x0)  # (B, h, w) each
    square = distance * jnp.square(memory.inv_std)
    constant = math.log(2 * math.pi) - 2 * jnp.log(memory.inv_std)
    nll = 0.5 * (jnp.sum(square, axis=(1, 2)) + math.prod(x0.shape[1:]) * constant)
    component = jax.vmap(_commonest)(jnp.reshape(memory.kind[index], (index.shape[0], -1)))
    return summarise(jnp.sqrt(square), nll, image_size, component)


def _commonest(kind: jax.Array) -> jax.Array:
    """The value that occurs most often in (N,) integers."""
    kind = jnp.sort(kind)
    count = jnp.searchsorted(kind, kind, side="right") - jnp.searchsorted(kind, kind)
    return kind[jnp.argmax(count)]


def nearest(vector: jax.Array, x0: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The nearest of R vectors at each position: exact, by products with some of them at a time.

    No position and no image asks another, so a batch that is spread over devices stays there.

    Args:
      vector: (R, C) float32.
      x0: (B, h, w, C) float32.

    Returns:
      The squared distances (B, h, w) float32, and the rows of the vectors, int32.
    """
    R, C = vector.shape
    chunks = -(-R // _VECTORS_AT_A_TIME)
    size = -(-R // chunks)
    padded = jnp.pad(vector, ((0, chunks * size - R), (0, 0)))
    length = jnp.sum(jnp.square(padded), axis=-1)
    length = jnp.where(jnp.arange(chunks * size) < R, length, jnp.inf)

    def body(best: tuple[jax.Array, jax.Array], of: tuple[jax.Array, ...]) -> tuple[Any, None]:
        some, its_length, start = of
        # What is left of large squares is small: float32 products on every device.
        products = jnp.einsum("bhwc,rc->bhwr", x0, some, precision="highest")
        less = its_length[None, None, None, :] - 2 * products
        index = jnp.argmin(less, axis=-1)
        smallest = jnp.min(less, axis=-1)
        nearer = smallest < best[0]
        return (
            jnp.where(nearer, smallest, best[0]),
            jnp.where(nearer, start + index, best[1]),
        ), None

    nothing = jnp.full(x0.shape[:3], jnp.inf), jnp.zeros(x0.shape[:3], jnp.int32)
    rows = jnp.arange(chunks, dtype=jnp.int32) * size
    parts = jnp.reshape(padded, (chunks, size, C)), jnp.reshape(length, (chunks, size)), rows
    (less, index), _ = jax.lax.scan(body, nothing, parts)
    return jnp.maximum(jnp.sum(jnp.square(x0), axis=-1) + less, 0.0), index


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
    part: jax.Array | None = None,
) -> Scores:
    """All scores that follow from a map on the grid.

    Args:
      latent_norm: (B, h, w) float32.
      nll: (B,) float32.
      image_size: H = W of the anomaly map, pixels.
      component: (B,) int32; None: 0.
      part: (B, h, w) bool, positions that take part; None: all. Of an empty one nothing is finite.
    """
    flat = jnp.reshape(latent_norm, (latent_norm.shape[0], -1))  # (B, hw)
    among = jnp.ones(flat.shape, bool) if part is None else jnp.reshape(part, flat.shape)
    count = jnp.sum(among, axis=1)  # (B,)
    # A sort stays on its device; `top_k` would gather the whole batch.
    ranked = jnp.sort(jnp.where(among, flat, -jnp.inf), axis=1)
    top = jnp.maximum(1, count // _TOP_SHARE)
    highest = jnp.arange(flat.shape[1])[None] >= flat.shape[1] - top[:, None]
    if part is None:
        anomaly_map = upsample(latent_norm, image_size)
    else:
        anomaly_map = upsample_part(latent_norm, part, image_size)
        latent_norm = jnp.where(part, latent_norm, jnp.nan)
        nll = jnp.where(count > 0, nll, jnp.nan)
    return Scores(
        anomaly_map=anomaly_map,
        latent_norm=latent_norm,
        nll=nll,
        map_range=ranked[:, -1] - jnp.min(jnp.where(among, flat, jnp.inf), axis=1),
        map_mean=jnp.sum(jnp.where(among, flat, 0.0), axis=1) / count,
        map_max=ranked[:, -1],
        map_top=jnp.sum(jnp.where(highest, ranked, 0.0), axis=1) / top,
        component=jnp.zeros(nll.shape, jnp.int32) if component is None else component,
    )


def upsample(latent_norm: jax.Array, image_size: int) -> jax.Array:
    """Bilinear, half-pixel centres, no antialiasing: (B, h, w) -> (B, H, W)."""
    shape = (latent_norm.shape[0], image_size, image_size)
    return jax.image.resize(latent_norm, shape, method="bilinear", antialias=False)


def upsample_part(latent_norm: jax.Array, part: jax.Array, image_size: int) -> jax.Array:
    """The same of the positions of a part, (B, h, w) bool; NaN in the cells of the others."""
    weight = upsample(part.astype(jnp.float32), image_size)
    enlarged = upsample(jnp.where(part, latent_norm, 0.0), image_size)
    _, h, w = part.shape
    row, column = (jnp.arange(image_size) * side // image_size for side in (h, w))
    return jnp.where(part[:, row][:, :, column], enlarged / weight, jnp.nan)


def without_maps(scores: Scores) -> Scores:
    """Without the large maps, which are as large as the images."""
    return scores._replace(anomaly_map=None, x_T=None)
