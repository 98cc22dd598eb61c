"""Keeps x0 of every normal image, position by position: what is near is sought around a position.

Read next: `coordinates.py`, which seeks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from invad_jax.normality import clusters

TAKES_NO_PART = 1e9
"""Squared distance from which on there was nothing near: a position that no other image has."""


class FittedBank(NamedTuple):
    """The arrays of `coordinates.ImageBank` on the host."""

    latent: np.ndarray
    """(N, h, w, C) float16."""
    descriptor: np.ndarray
    """(N, C) float32 of length 1."""
    kind: np.ndarray
    """(N,) int32: the kind of product."""
    bandwidth: np.ndarray
    """(K, h, w) float32; 1 where no weights are asked for."""


def bank_of(x0: np.ndarray, kind: np.ndarray) -> FittedBank:
    """The bank of images, (N, h, w, C) float32, standardised; float16 is 5e-4 of a value off.

    Args:
      x0: the images.
      kind: (N,) integers from 0.

    Memory: half of what it is given, beside it.
    """
    mean = clusters.describe(x0)  # (N, C)
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    descriptor = (mean / np.maximum(length, 1e-12)).astype(np.float32)
    limit = np.finfo(np.float16).max
    latent = np.clip(x0, -limit, limit).astype(np.float16)
    latent[np.isnan(latent)] = limit  # takes no part: as far from any vector as can be
    bandwidth = np.ones((kind.max() + 1, *x0.shape[1:3]), np.float32)
    return FittedBank(latent, descriptor, kind.astype(np.int32), bandwidth)


def are_in_order(bank: FittedBank, mean: np.ndarray) -> bool:
    """Whether images are those of the bank, one by one, or so alike that it does not matter.

    Another image is about as far away as any two of its kind are from each other.

    Args:
      bank: of N images.
      mean: (N, C), the mean of each over its positions, standardised.
    """
    limit = np.finfo(np.float16).max
    known = clusters.describe(
        np.where(one == limit, np.nan, one.astype(np.float32)) for one in bank.latent
    )
    away = np.mean(np.square(known - mean), axis=1)  # (N,)
    spread = np.array(
        [known[bank.kind == k].var(axis=0).mean() for k in range(bank.kind.max() + 1)]
    )
    alike = 1e-6  # a thousandth of the unit of latents
    return bool(np.all(away < 0.1 * spread[bank.kind] + alike))


class BankCollector:
    """Keeps the first state of batches that pass by."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._kinds: list[int] = []
        self._names: list[str] = []

    def watch(self, name: str, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the batches (b, M, h, w, C) of one kind of product as they are."""
        self._names.append(name)
        for batch in batches:
            self._kinds += [len(self._names) - 1] * len(batch)
            self._kept.append(np.array(batch[:, 0], np.float32))
            yield batch

    def fit(self) -> FittedBank:
        """The bank of all that has passed by."""
        return bank_of(np.concatenate(self._kept), np.array(self._kinds))
