"""Keeps vectors of normal images, wherever in the image they were: what the nearest is sought in.

A part that lies a little differently in every image is found at its neighbours' positions, which a
Gaussian of one position (`prior.py`) cannot do. Of all vectors a twentieth is kept, chosen so that
none is far from a kept one: the greedy k-centre of PatchCore (Roth et al. 2022), after a random
projection as there. Read next: `scoring.nearest`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from invad_jax.errors import UserError

SHARE = 0.05
"""Of the vectors that are kept."""
AT_LEAST, AT_MOST = 1_000, 10_000
POOL = 100_000
"""Vectors to choose from, drawn at random where there are more."""
PROJECTED = 64
"""Channels in which the choice is made."""
QUERIES = 1_000
"""Vectors whose distance to another image's tells the spread."""


class FittedMemory(NamedTuple):
    """The arrays of `scoring.Memory` on the host."""

    vector: np.ndarray
    """(R, M C) float32."""
    kind: np.ndarray
    """(R,) int32."""
    mean: np.ndarray
    """(M, C) float32."""
    scale: np.ndarray
    """(M,) float32."""
    name: np.ndarray
    """(K,) text: the kinds of product."""


class Collector:
    """Draws a pool of vectors from batches that pass by, then chooses.

    The pool is the same however the images are cut into batches. Memory: twice `POOL` vectors
    beside a batch.
    """

    def __init__(self, seed: int = 0):
        self._rng = np.random.default_rng(seed)
        self._names: list[str] = []
        self._images = 0
        self._pool: dict[str, np.ndarray] = {}

    def watch(self, name: str, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the batches (b, M, h, w, C) of one kind of product as they are."""
        self._names.append(name)
        for batch in batches:
            self._add(batch)
            yield batch

    def fit(self) -> FittedMemory:
        """Chooses among what has passed by.

        Raises:
          UserError: fewer than two images.
        """
        check_count(self._images)
        vector, image, kind = (self._pool[part] for part in ("vector", "image", "kind"))
        mean = vector.mean(axis=0, dtype=np.float64)  # (M, C)
        centred = vector - mean.astype(np.float32)  # (P, M, C)
        deviation = np.sqrt(np.mean(np.square(centred), axis=(0, 2), dtype=np.float64))  # (M,)
        scale = 1 / np.maximum(deviation, 1e-3)  # where nothing varies, any other image is far out
        flat = (centred * scale.astype(np.float32)[:, None]).reshape(len(vector), -1)
        count = int(np.clip(SHARE * len(flat), AT_LEAST, AT_MOST))
        kept = k_centre(_projected(flat), min(count, len(flat)))
        spread = np.sqrt(max(self._variance(flat, image, kept), 1e-6))
        return FittedMemory(
            vector=(flat[kept] / spread).astype(np.float32),
            kind=kind[kept].astype(np.int32),
            mean=mean.astype(np.float32),
            scale=(scale / spread).astype(np.float32),
            name=np.array(self._names),
        )

    def _add(self, batch: np.ndarray) -> None:
        b, M, h, w, C = batch.shape
        rows = {
            "key": self._rng.random(b * h * w),
            "vector": np.moveaxis(batch, 1, 3).reshape(-1, M, C).astype(np.float32),
            "image": np.repeat(np.arange(self._images, self._images + b), h * w),
            "kind": np.full(b * h * w, len(self._names) - 1),
        }
        self._images += b
        if self._pool:
            rows = {part: np.concatenate([self._pool[part], rows[part]]) for part in rows}
        if len(rows["key"]) > POOL:
            drawn = np.sort(np.argpartition(rows["key"], POOL)[:POOL])
            rows = {part: array[drawn] for part, array in rows.items()}
        self._pool = rows

    def _variance(self, flat: np.ndarray, image: np.ndarray, kept: np.ndarray) -> float:
        """Mean squared distance, a number, to the nearest kept vector of another image."""
        drawn = self._rng.permutation(len(flat))[:QUERIES]
        a, b = flat[drawn].astype(np.float64), flat[kept].astype(np.float64)
        square = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T
        square[image[drawn][:, None] == image[kept][None, :]] = np.inf
        smallest = square.min(axis=1)
        return float(np.mean(np.maximum(smallest[np.isfinite(smallest)], 0.0)) / flat.shape[1])


def check_count(count: int) -> None:
    """Raises UserError unless so many images have a spread."""
    if count < 2:
        raise UserError(f"scoring.place: {count} normal image(s) to keep, and a spread needs two")


def _projected(flat: np.ndarray, seed: int = 0) -> np.ndarray:
    """(P, F) to (P, at most `PROJECTED`), roughly keeping distances (Johnson, Lindenstrauss)."""
    features = flat.shape[1]
    if features <= PROJECTED:
        return flat
    matrix = np.random.default_rng(seed).standard_normal((features, PROJECTED))
    return flat @ matrix.astype(np.float32)


def k_centre(points: np.ndarray, count: int) -> np.ndarray:
    """Rows of `count` points, sorted: each is the one farthest from those before it.

    The largest distance from any point to a chosen one is at most twice the smallest that `count`
    points could give (Gonzalez 1985). The first is the farthest from the mean.

    Args:
      points: (P, F) float32.
      count: at most P.

    >>> k_centre(np.array([[0.0], [1.0], [2.0], [10.0]], np.float32), 2).tolist()
    [0, 3]
    """
    length = np.sum(np.square(points), axis=1)
    mean = points.mean(axis=0)
    smallest = length - 2 * points @ mean  # (P,) plus a constant
    chosen = [int(np.argmax(smallest))]
    smallest = np.full(len(points), np.inf, np.float32)
    while len(chosen) < count:
        last = points[chosen[-1]]
        np.minimum(smallest, length - 2 * (points @ last) + last @ last, out=smallest)
        smallest[chosen[-1]] = -np.inf
        chosen.append(int(np.argmax(smallest)))
    return np.sort(np.array(chosen))
