"""One Gaussian for each position of a latent, from few images in many channels.

A position has fewer images than channels, so its covariance is shrunk towards a multiple of the
identity, by as much as the oracle approximating shrinkage of Chen et al. 2010 ("Shrinkage
algorithms for MMSE covariance estimation", eq. 23) says. That multiple, and how far, are shared by
all positions: where nothing ever varies, such as a plain background, a position's own would call
the smallest deviation an anomaly. Everything in float64.

Read next: `mixture.py`, which makes a mixture of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg
from threadpoolctl import ThreadpoolController

MAX_DENSE_CHANNELS = 512
"""Above, a covariance is kept as low rank plus diagonal: 512^2 numbers a position are 1 MB."""
RANK = 64
"""Of the low-rank part."""


class Factor(NamedTuple):
    """The precision matrices of P positions, or of one without the P, as in `scoring.Prior`."""

    projection: np.ndarray
    """(P, r, C)."""
    inv_std: np.ndarray | None
    """(P, C), or None where `projection` whitens."""
    log_det: np.ndarray
    """(P,) nats, of the covariances."""


@dataclass(frozen=True)
class Gaussian:
    """P Gaussians."""

    mean: np.ndarray
    """(P, C)."""
    factor: Factor
    shrinkage: float
    """0: the sample covariance; 1: a multiple of the identity."""


@dataclass(frozen=True)
class Moments:
    """What P Gaussians are estimated from: sums over N images."""

    count: int
    """N."""
    mean: np.ndarray
    """(P, C)."""
    covariance: np.ndarray
    """(P, C, C), of maximum likelihood."""


def moments(batches: Iterable[np.ndarray]) -> Moments:
    """One pass over (b, P, C) arrays of any float type, in any order.

    An image has no part in the moments of a position at which it is NaN; those of a position that
    no image has are NaN.

    Memory: 24 P C^2 bytes beside a batch.
    """
    count, seen, total, outer = 0, np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1, 1))
    for batch in batches:
        x = np.swapaxes(batch, 0, 1).astype(np.float64)  # (P, b, C)
        count += x.shape[1]
        here = np.isfinite(x[..., 0])
        seen = seen + here.sum(axis=1, keepdims=True)  # (P, 1)
        x[~here] = 0
        total = total + x.sum(axis=1)
        with _one_thread():  # threads make matrices of this size a hundred times slower
            outer = outer + np.swapaxes(x, 1, 2) @ x  # (P, C, C)
    with np.errstate(invalid="ignore"):
        mean, outer = total / seen, outer / seen[:, :, None]
    outer -= mean[..., :, None] * mean[..., None, :]
    return Moments(count, mean, outer)


def fit(of: Moments) -> Gaussian:
    """P Gaussians, shrunk (see the head of this file)."""
    shrinkage = oas(of)
    variance = _mean_variance(of)
    shrunk = (regularised(S, shrinkage, variance) for S in of.covariance)
    return Gaussian(of.mean, precision(shrunk), shrinkage)


def oas(of: Moments) -> float:
    """The oracle approximating shrinkage, in 0..1, its mean over positions that vary at all."""
    C = of.mean.shape[-1]
    trace = np.trace(of.covariance, axis1=-2, axis2=-1)  # (P,)
    square = np.sum(np.square(of.covariance), axis=(-2, -1))  # (P,) trace of S^2
    over = (1 - 2 / C) * square + trace**2
    under = (of.count + 1 - 2 / C) * (square - trace**2 / C)
    varies = under > 1e-12 * over
    if not varies.any():
        return 1.0
    return float(np.mean(np.minimum(over[varies] / under[varies], 1.0)))


def regularised(S: np.ndarray, shrinkage: float, variance: float) -> np.ndarray:
    """(1 - a) S + a v I, (C, C), with a floor that gives it an inverse.

    The floor is a millionth of v; where nothing varies at all, of a millionth of the unit that
    latents are standardised to: any other image is then far out, and still a float32.
    """
    added = shrinkage * variance + 1e-6 * max(variance, 1e-6)
    return (1 - shrinkage) * S + added * np.eye(len(S))


def _mean_variance(of: Moments) -> float:
    return float(np.mean(np.diagonal(of.covariance, axis1=-2, axis2=-1)))


def _one_thread() -> AbstractContextManager[object]:
    return _libraries().limit(limits=1)


@functools.cache
def _libraries() -> ThreadpoolController:
    """Those of linear algebra, found once: a search reads the list of all that is mapped, a line
    for each compiled program too: megabytes in a process that has compiled for an hour."""
    return ThreadpoolController()


def precision(covariances: Iterable[np.ndarray]) -> Factor:
    """The precisions of covariance matrices (C, C), one a position."""
    with _one_thread():
        parts = [_low_rank(S) if len(S) > MAX_DENSE_CHANNELS else _dense(S) for S in covariances]
    inv_std = [part.inv_std for part in parts if part.inv_std is not None]
    return Factor(
        np.stack([part.projection for part in parts]),
        np.stack(inv_std) if inv_std else None,
        np.stack([part.log_det for part in parts]),
    )


def _dense(S: np.ndarray) -> Factor:
    """W with W S W^T = I, lower triangular."""
    cholesky = np.linalg.cholesky(S)
    log_det = 2 * np.sum(np.log(np.diagonal(cholesky)))
    whitening = scipy.linalg.solve_triangular(cholesky, np.eye(len(S)), lower=True)
    return Factor(whitening, None, np.asarray(log_det))


def _low_rank(S: np.ndarray) -> Factor:
    """S ~ D + A A^T by probabilistic principal components (Tipping and Bishop 1999).

    The leading eigenvectors less the mean of the other eigenvalues; D keeps all variances exactly.
    Exact where S is a low rank plus a multiple of the identity. By Woodbury's identity
    c^T S^-1 c = |u|^2 - |B^T u|^2 with u = c / sqrt(D), and
    log det S = log det D + log det(I + A^T D^-1 A). The rows of B D^1/2 are orthogonal, which
    whitening makes use of (`coordinates.py`).
    """
    channels = len(S)
    rank = min(RANK, channels - 1)
    values, vectors = scipy.linalg.eigh(S, subset_by_index=(channels - rank, channels - 1))
    noise = max((np.trace(S) - values.sum()) / (channels - rank), 0.0)
    loading = vectors * np.sqrt(np.maximum(values - noise, 0.0))  # (C, r)
    variance = np.diagonal(S)
    rest = np.maximum(variance - np.sum(np.square(loading), axis=1), 1e-4 * variance)  # (C,) of D
    inv_std = 1 / np.sqrt(rest)
    scaled = loading * inv_std[:, None]  # (C, r)
    above, directions = np.linalg.eigh(scaled.T @ scaled)  # (r,), (r, r)
    basis = (directions / np.sqrt(1 + above)).T @ scaled.T  # (r, C), its rows orthogonal
    log_det = np.sum(np.log1p(np.maximum(above, 0))) - 2 * np.sum(np.log(inv_std))
    return Factor(basis * inv_std, inv_std, np.asarray(log_det))
