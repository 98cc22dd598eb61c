"""One Gaussian for each position of a latent, from few images in many channels.

The covariance of a position is estimated from fewer images than it has channels, and is shrunk
twice: towards the covariance that all positions share (`tie`), then towards its own diagonal
(`shrinkage`; Friedman 1989 shrinks by two such numbers). How far is decided by the likelihood of
normal images that the estimate has not seen. Everything in float64.

Read next: `prior.py`, which makes a mixture of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg

TIES = (0.0, 0.1, 0.3, 0.6, 0.9)
SHRINKAGES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Candidates; all pairs are compared."""
MAX_DENSE_CHANNELS = 512
"""Above, a covariance is kept as low rank plus diagonal: 512^2 numbers a position are 1 MB."""
RANK = 64
"""Of the low-rank part."""
_COMPARED_POSITIONS = 16  # decide on tie and shrinkage
_COMPARED_POSITIONS_WIDE = 4  # where a comparison is an eigendecomposition
_VALIDATION_EVERY = 5


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
    """What was fitted to one state of one component."""

    mean: np.ndarray
    """(P, C)."""
    factor: Factor
    tie: float
    shrinkage: float


def fit(x: np.ndarray, validation: np.ndarray | None) -> Gaussian:
    """Fits P Gaussians, tie and shrinkage by the likelihood of images not estimated from.

    Memory: 16 P C^2 bytes beside the inputs; with low rank 16 P C RANK.

    Args:
      x: (N, P, C), N >= 2, any float type.
      validation: (V, P, C); None, or empty: every fifth of `x` decides, after which all are used.
    """
    deciding = x
    if validation is None or not len(validation):
        held = np.arange(len(x)) % _VALIDATION_EVERY == _VALIDATION_EVERY - 1
        held[-1] |= not held.any()
        deciding, validation = x[~held], x[held]
    return estimate(x, *_choose(deciding, validation))


def _choose(x: np.ndarray, validation: np.ndarray) -> tuple[float, float]:
    """The likeliest tie and shrinkage, compared at a few positions spread over the grid."""
    count = _COMPARED_POSITIONS_WIDE if x.shape[-1] > MAX_DENSE_CHANNELS else _COMPARED_POSITIONS
    compared = np.unique(np.linspace(0, x.shape[1] - 1, count).round().astype(int))
    mean = mean_of(x)
    shared = _shared(x, mean)
    own = [covariance(x[:, p], mean[p]) for p in compared]
    centred = np.asarray(validation[:, compared], np.float64) - mean[compared]

    def nats(pair: tuple[float, float]) -> float:
        factor = precision(shrink(matrix, shared, *pair) for matrix in own)
        square = mahalanobis(centred, factor)  # (V, P)
        return float(np.mean(square) + np.mean(factor.log_det))

    return min(itertools.product(TIES, SHRINKAGES), key=nats)


def estimate(x: np.ndarray, tie: float, shrinkage: float) -> Gaussian:
    """P Gaussians with a given tie and shrinkage; (N, P, C) as in `fit`."""
    mean = mean_of(x)
    shared = _shared(x, mean)
    matrices = (
        shrink(covariance(x[:, p], mean[p]), shared, tie, shrinkage) for p in range(x.shape[1])
    )
    return Gaussian(mean, precision(matrices), tie, shrinkage)


def _shared(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The mean over positions of their covariances, (C, C)."""
    total = np.zeros((x.shape[-1], x.shape[-1]))
    for p in range(x.shape[1]):
        total += covariance(x[:, p], mean[p])
    return total / x.shape[1]


def mean_of(x: np.ndarray) -> np.ndarray:
    """(N, P, C) -> (P, C) float64."""
    return np.asarray(np.mean(x, axis=0, dtype=np.float64))


def covariance(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Maximum-likelihood covariance (C, C) float64 of (N, C) around a mean (C,)."""
    centred = np.asarray(x, np.float64) - mean
    return centred.T @ centred / len(x)


def shrink(own: np.ndarray, shared: np.ndarray, tie: float, shrinkage: float) -> np.ndarray:
    """S = (1 - t) own + t shared, then (1 - a) S + a diag(S).

    With a floor of a millionth of the mean variance: a channel that never varies at some position
    would otherwise have no inverse.

    Args:
      own: (C, C).
      shared: (C, C).
      tie: t in [0, 1].
      shrinkage: a in (0, 1].
    """
    mixed = (1 - tie) * own + tie * shared
    floor = 1e-6 * np.trace(shared) / len(shared) + np.finfo(np.float32).tiny
    return (1 - shrinkage) * mixed + np.diag(shrinkage * np.diagonal(mixed) + floor)


def precision(covariances: Iterable[np.ndarray]) -> Factor:
    """The precisions of covariance matrices (C, C), one a position."""
    parts = [_low_rank(S) if len(S) > MAX_DENSE_CHANNELS else _dense(S) for S in covariances]
    inv_std = [part.inv_std for part in parts if part.inv_std is not None]
    return Factor(
        np.stack([part.projection for part in parts]),
        np.stack(inv_std) if inv_std else None,
        np.stack([part.log_det for part in parts]),
    )


def mahalanobis(centred: np.ndarray, factor: Factor) -> np.ndarray:
    """Squared distances: (N, P, C) less their mean -> (N, P)."""
    by_position = np.swapaxes(centred, 0, 1)  # (P, N, C)
    projected = by_position @ np.swapaxes(factor.projection, -1, -2)  # (P, N, r)
    square = np.sum(np.square(projected), axis=-1).T  # (N, P)
    if factor.inv_std is None:
        return square
    return np.sum(np.square(centred * factor.inv_std), axis=-1) - square


def _dense(S: np.ndarray) -> Factor:
    """W with W S W^T = I, lower triangular."""
    cholesky = np.linalg.cholesky(S)
    log_det = 2 * np.sum(np.log(np.diagonal(cholesky)))
    identity = np.eye(len(S))
    return Factor(
        scipy.linalg.solve_triangular(cholesky, identity, lower=True), None, np.asarray(log_det)
    )


def _low_rank(S: np.ndarray) -> Factor:
    """S ~ D + A A^T: the leading eigenvectors of the correlations, all variances kept exactly.

    By Woodbury's identity c^T S^-1 c = |u|^2 - |B^T u|^2 with u = c / sqrt(D), and
    log det S = log det D + log det(I + A^T D^-1 A).
    """
    channels = len(S)
    rank = min(RANK, channels - 1)
    std = np.sqrt(np.diagonal(S))
    values, vectors = scipy.linalg.eigh(
        S / np.outer(std, std), subset_by_index=(channels - rank, channels - 1)
    )
    loading = vectors * np.sqrt(np.maximum(values, 0.0))  # (C, r)
    rest = np.maximum(1 - np.sum(np.square(loading), axis=1), 1e-4)  # (C,) of each variance
    scaled = loading / np.sqrt(rest)[:, None]  # (C, r)
    cholesky = np.linalg.cholesky(np.eye(rank) + scaled.T @ scaled)  # (r, r)
    inv_std = 1 / (std * np.sqrt(rest))  # (C,)
    basis = scipy.linalg.solve_triangular(cholesky, scaled.T, lower=True)  # (r, C)
    log_det = 2 * (np.sum(np.log(np.diagonal(cholesky))) - np.sum(np.log(inv_std)))
    return Factor(basis * inv_std, inv_std, np.asarray(log_det))
