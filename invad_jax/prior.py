"""Fits the Gaussian that inverted latents of normal images follow, position by position.

A handful of Euler steps does not carry normal images to N(0, I): what is left is systematic, and
can be learnt from normal images alone. The covariance of few images in many channels is singular,
so it is shrunk towards its own diagonal; how far is decided by the likelihood of normal images that
the covariance was not estimated from. Test images take no part.

Read next: `scoring.py`, which whitens with it.
"""

from __future__ import annotations

import dataclasses
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from invad_jax import files
from invad_jax.errors import UserError

SHRINKAGES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Candidates; 1 keeps only the variances."""
_VALIDATION_EVERY = 5


@dataclass(frozen=True)
class FittedPrior:
    """The arrays of `scoring.Prior` on the host, and how they came about."""

    mean: np.ndarray
    """(h, w, C) float32."""
    whitening: np.ndarray
    """(h, w, C, C) float32, lower triangular."""
    log_det: float
    """Nats, summed over positions."""
    shrinkage: float
    """The chosen one of `SHRINKAGES`."""
    bits_per_dimension: float
    """-log2 density of the validation images under this prior, per number."""
    bits_per_dimension_standard: float
    """The same under N(0, I): what is gained by fitting."""


def fit(x_T: np.ndarray, validation: np.ndarray | None) -> FittedPrior:
    """Fits mean and shrunk covariance of each position.

    Memory: 24 bytes x h w C^2, beside the inputs.

    Args:
      x_T: (N, h, w, C), inverted latents of the normal images that were trained on.
      validation: (M, h, w, C), of normal images that were not; None: every fifth of `x_T` decides
        the shrinkage, after which all of them are used.

    Raises:
      UserError: fewer than two images.
    """
    if len(x_T) < 2:
        raise UserError("scoring.prior=fitted: needs at least two normal images")
    if validation is None:
        held = np.arange(len(x_T)) % _VALIDATION_EVERY == _VALIDATION_EVERY - 1
        held[-1] |= not held.any()
        estimated_on, validation = x_T[~held], x_T[held]
    else:
        estimated_on = x_T
    mean, covariance = moments(estimated_on)
    nats = [_nll(validation, mean, *_factor(covariance, a)) for a in SHRINKAGES]
    best = int(np.argmin(nats))
    if estimated_on is not x_T:
        mean, covariance = moments(x_T)
    whitening, log_det = _factor(covariance, SHRINKAGES[best])
    per_number = 1 / (np.log(2) * validation[0].size)
    standard = 0.5 * np.mean(np.square(validation, dtype=np.float64)) + 0.5 * np.log(2 * np.pi)
    return FittedPrior(
        mean=mean.astype(np.float32),
        whitening=whitening.astype(np.float32),
        log_det=log_det,
        shrinkage=SHRINKAGES[best],
        bits_per_dimension=float(nats[best] * per_number),
        bits_per_dimension_standard=float(standard / np.log(2)),
    )


def write(path: str | Path, fitted: FittedPrior) -> None:
    """Writes `.npz` atomically."""
    with files.replaced(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **dataclasses.asdict(fitted))


def read(path: str | Path) -> FittedPrior:
    """Reads what `write` wrote.

    Raises:
      UserError: missing or damaged.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in arrays.files}
        return FittedPrior(**{k: v if v.ndim else v.item() for k, v in values.items()})
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: no prior that can be read; run eval with these options"
        ) from error


def moments(x_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (h, w, C) and maximum-likelihood covariance (h, w, C, C), in float64, two passes."""
    mean = np.asarray(np.mean(x_T, axis=0, dtype=np.float64))
    by_position = np.moveaxis(x_T - mean, 0, 2)  # (h, w, N, C)
    return mean, np.swapaxes(by_position, -1, -2) @ by_position / len(x_T)


def _factor(covariance: np.ndarray, shrinkage: float) -> tuple[np.ndarray, float]:
    """Whitening matrices (h, w, C, C) and log-determinant of the shrunk covariances.

    (1 - a) S + a diag(S), with a floor of a millionth of the mean variance: a channel that never
    varies at some position would otherwise have no inverse.
    """
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)  # (h, w, C)
    floor = 1e-6 * variance.mean() + np.finfo(np.float32).tiny
    diagonal = shrinkage * variance + floor
    channel = np.arange(covariance.shape[-1])
    shrunk = (1 - shrinkage) * covariance
    shrunk[..., channel, channel] += diagonal
    cholesky = np.linalg.cholesky(shrunk)
    log_det = 2 * np.sum(np.log(np.diagonal(cholesky, axis1=-2, axis2=-1)))
    return np.linalg.inv(cholesky), float(log_det)


def _nll(x_T: np.ndarray, mean: np.ndarray, whitening: np.ndarray, log_det: float) -> float:
    """Mean nats of an image: (M, h, w, C) -> scalar."""
    centred = np.moveaxis(x_T - mean, 0, 3)  # (h, w, C, M)
    square = np.sum(np.square(whitening @ centred)) / len(x_T)
    return float(0.5 * (square + log_det + x_T[0].size * np.log(2 * np.pi)))
