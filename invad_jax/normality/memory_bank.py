"""Keeps vectors of x0 of normal images, wherever they were: what the nearest is sought in.

A part that lies a little differently in every image is found at other positions, which a Gaussian
of one position (`mixture.py`) cannot do. Of all vectors a twentieth is kept, chosen so that none
is far from a kept one: the greedy k-centre of PatchCore (Roth et al. 2022), after a random
projection as there. Read next: `scoring.nearest`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from invad_jax.errors import UserError

POOL = 100_000
"""Vectors to choose from, drawn at random where there are more."""
SHARE, AT_LEAST = 0.05, 1_000
"""Of them are kept, if there are as many."""
PROJECTED = 64
"""Channels in which the choice is made."""
QUERIES = 1_000
"""Vectors whose distance to another image's tells the variance."""
MIN_VARIANCE = 1e-6
"""Of the unit that latents are standardised to, where all images are alike."""


class FittedMemory(NamedTuple):
    """The arrays of `scoring.Memory` on the host."""

    vector: np.ndarray
    """(R, C) float32."""
    kind: np.ndarray
    """(R,) int32."""
    inv_std: np.ndarray
    """() float32."""
    name: np.ndarray
    """(K,) text: the kinds of product."""


class Collector:
    """Draws a pool of vectors from batches that pass by, then chooses.

    The pool is the same however the images are cut into batches. Memory: three times `POOL`
    vectors beside a batch.
    """

    def __init__(self, seed: int = 0):
        self._rng = np.random.default_rng(seed)
        self._names: list[str] = []
        self._images = 0
        self._pool: dict[str, np.ndarray] = {}

    def watch(self, name: str, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the batches (b, M, h, w, C), x0 first, of one kind of product as they are."""
        self._names.append(name)
        for batch in batches:
            self._add(batch[:, 0])
            yield batch

    def fit(self) -> FittedMemory:
        """Chooses among what has passed by.

        Raises:
          UserError: fewer than two images.
        """
        check_count(self._images)
        vector = self._pool["vector"]  # (P, C)
        count = max(int(SHARE * len(vector)), AT_LEAST)
        kept = k_centre(_projected(vector), min(count, len(vector)))
        return FittedMemory(
            vector=vector[kept],
            kind=self._pool["kind"][kept].astype(np.int32),
            inv_std=np.array(max(self._variance(kept), MIN_VARIANCE) ** -0.5, np.float32),
            name=np.array(self._names),
        )

    def _add(self, batch: np.ndarray) -> None:
        b, h, w, C = batch.shape
        rows = {
            "key": self._rng.random(b * h * w),
            "vector": batch.reshape(-1, C).astype(np.float32),
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

    def _variance(self, kept: np.ndarray) -> float:
        """Of maximum likelihood: mean square of the distance to the nearest of another image.

        0 where all that was kept, and all that is asked, is of one image.
        """
        vector, image = self._pool["vector"], self._pool["image"]
        drawn = self._rng.permutation(len(vector))[:QUERIES]
        a, b = vector[drawn].astype(np.float64), vector[kept].astype(np.float64)
        square = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T
        square[image[drawn][:, None] == image[kept][None, :]] = np.inf
        smallest = square.min(axis=1)
        others = smallest[np.isfinite(smallest)]
        return float(np.mean(others) / vector.shape[1]) if others.size else 0.0


def check_count(count: int) -> None:
    """Raises UserError unless so many images have a spread."""
    if count < 2:
        raise UserError(
            f"inversion.paradigm=nearest_neighbour: {count} normal image(s), and the distance "
            "between two is needed"
        )


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
