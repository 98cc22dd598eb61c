"""Kinds of product among normal images whose labels are not to be used: k-means on mean latents.

Read next: `mixture.py`, which fits a component to each.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.cluster.vq import kmeans2

MOST = 32
"""Clusters that are tried."""
FEWEST_IMAGES = 10
"""In a cluster; with fewer its covariance would rest on next to nothing."""
_RESTARTS = 4  # k-means ends in a local optimum


def kinds(how: str, categories: Sequence[str], latents: np.ndarray) -> list[str]:
    """The kind of product that each normal image counts as.

    Args:
      how: `scoring.components`: `category`, `cluster` or `one`.
      categories: N names.
      latents: (N, h, w, C).
    """
    if how == "category":
        return list(categories)
    if how == "one":
        return ["all"] * len(categories)
    return [f"cluster {k}" for k in find(describe(latents))]


def describe(latents: Iterable[np.ndarray]) -> np.ndarray:
    """One vector an image: the mean of its positions that take part; (N, h, w, C) -> (N, C)
    float64."""
    return np.stack([np.nanmean(one, axis=(0, 1), dtype=np.float64) for one in latents])


def find(descriptor: np.ndarray, seed: int = 0) -> np.ndarray:
    """The cluster of each image, of as many as the Bayesian information criterion asks for.

    Each cluster counts as a Gaussian with a variance of its own for each channel, so one more has
    to gain C log N nats. Channels are standardised first, or the widest one would decide.

    Args:
      descriptor: (N, C).
      seed: of the starts.

    Returns:
      (N,) int, from 0.
    """
    scaled = descriptor / (descriptor.std(axis=0) + 1e-12)
    best = np.zeros(len(scaled), int)
    fewest_nats = _criterion(scaled, best)
    rng = np.random.default_rng(seed)
    distinct = len(np.unique(scaled, axis=0))  # more centres than that have nowhere to start
    for count in range(2, min(MOST, len(scaled) // FEWEST_IMAGES, distinct) + 1):
        for _ in range(_RESTARTS):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of an empty cluster: refused below
                _, label = kmeans2(scaled, count, minit="++", rng=rng)
            nats = _criterion(scaled, label)
            if nats < fewest_nats and np.bincount(label, minlength=count).min() >= FEWEST_IMAGES:
                best, fewest_nats = label, nats
    return best


def _criterion(x: np.ndarray, label: np.ndarray) -> float:
    """Half of the Bayesian information criterion, nats: lower is better."""
    count, channels = x.shape
    nats = 0.0
    for name in np.unique(label):
        members = x[label == name]
        variance = members.var(axis=0) + 1e-6  # of standardised channels: a floor for constant ones
        nats += 0.5 * len(members) * np.sum(np.log(variance) + 1)
        nats -= len(members) * np.log(len(members) / count)
    return nats + len(np.unique(label)) * channels * np.log(count)
