"""What `coordinates.py` needs, fitted on normal images and kept in one file.

A position has fewer images than channels: its covariance is that of its images and as much again,
in all directions, as latents vary on average. Read next:
`inference/whitening.py`, which runs the images.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from invad_jax.io import files
from invad_jax.io.arrays import read_arrays, write_arrays
from invad_jax.normality import gaussian, mixture
from invad_jax.normality.gaussian import Gaussian, Moments
from invad_jax.normality.image_bank import FittedBank
from invad_jax.normality.mixture import Component, FittedPrior

FOLDS = 5
"""Training images are whitened by what was learnt without them, a fifth at a time."""
FEWEST = 3
"""Images of a kind of which one can be spared for that."""


class FittedCoordinates(NamedTuple):
    """The arrays of `coordinates.Coordinates` on the host."""

    gaussians: FittedPrior
    bank: FittedBank | None
    components: str = "category"
    """`scoring.components` of the training: what makes images one kind of product."""

    @property
    def component_names(self) -> tuple[str, ...]:
        """The kinds of product."""
        return tuple(map(str, self.gaussians.name))


def estimate(of: Moments, identity: float, centred: bool) -> Gaussian:
    """P Gaussians with covariances S_p + identity v I.

    Args:
      of: moments of N images at P positions.
      identity: at least 0, in units of v, the mean variance over positions and channels.
      centred: about the mean of each position; else about 0, for what is left after a mean of
        another kind.
    """
    S, mean = of.covariance, of.mean
    if not centred:
        S, mean = S + mean[:, :, None] * mean[:, None, :], np.zeros_like(mean)
    elif of.count > 1:
        S = S * (of.count / (of.count - 1))
    variance = float(np.nanmean(np.diagonal(S, axis1=-2, axis2=-1)))
    S, mean = np.nan_to_num(S), np.nan_to_num(mean)  # of positions that no image has
    floor = identity * variance + 1e-6 * max(variance, 1e-6)
    added = floor * np.eye(S.shape[-1])
    return Gaussian(mean, gaussian.precision(own + added for own in S), identity)


def fit(rest: np.ndarray, labels: Sequence[str], identity: float, centred: bool) -> FittedPrior:
    """One Gaussian for each position and kind of product.

    Args:
      rest: (N, h, w, C) float32, what is whitened.
      labels: N names of kinds.
      identity: see `estimate`.
      centred: see `estimate`.
    """
    kind = np.array(labels)
    components = [Component(str(name), [rest[kind == name][:, None]]) for name in sorted(set(kind))]
    estimator = partial(estimate, identity=identity, centred=centred)
    return mixture.fit(components, estimator)


def folds(labels: Sequence[str], fewest: int) -> np.ndarray:
    """A number below `FOLDS` for each image, dealt out within each kind in a fixed order.

    -1 for kinds of fewer than `fewest` images, of which none can be spared.
    """
    kind, fold = np.array(labels), np.full(len(labels), -1)
    for name in set(labels):
        rows = np.flatnonzero(kind == name)
        if len(rows) >= fewest:
            fold[rows] = np.random.default_rng(0).permutation(len(rows)) % FOLDS
    return fold


def cross_fitted(
    rest: np.ndarray, labels: Sequence[str], identity: float, centred: bool
) -> Iterator[tuple[np.ndarray, FittedPrior]]:
    """Rows of the images, and the Gaussians of the others: each image is new to its own.

    Of kinds of fewer than `FEWEST` images none can be spared, and nothing is left out.
    """
    kind, fold = np.array(labels), folds(labels, FEWEST)
    for k in np.unique(fold):
        others = fold != k if k >= 0 else np.full(len(fold), True)
        yield (
            np.flatnonzero(fold == k),
            fit(rest[others], kind[others].tolist(), identity, centred),
        )


_ADVICE = (
    "without it the model knows no normal image: restore it, or give `train` again where the "
    "images are"
)


def write(path: Path, fitted: FittedCoordinates, key: dict[str, Any]) -> None:
    """Writes one `.npz` atomically; `key` says what it was made of."""
    arrays: dict[str, Any] = {
        "components": fitted.components,
        "key": json.dumps(key, sort_keys=True),
    }
    arrays |= {f"gaussians.{k}": v for k, v in dataclasses.asdict(fitted.gaussians).items()}
    if fitted.bank:
        arrays |= {f"bank.{k}": v for k, v in fitted.bank._asdict().items()}
    write_arrays(path, arrays)


def read(path: Path) -> tuple[FittedCoordinates, dict[str, Any]]:
    """Reads what `write` wrote.

    Raises:
      UserError: missing or damaged.
    """
    with read_arrays(path, _ADVICE) as values:
        banked = files.below("bank", values)
        return FittedCoordinates(
            FittedPrior(**files.below("gaussians", values)),
            FittedBank(**banked) if banked else None,
            str(values["components"]),
        ), json.loads(str(values["key"]))
