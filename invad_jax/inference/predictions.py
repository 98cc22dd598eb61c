"""What is known of images: one result, or a column of each field for many."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np

from invad_jax.config import TERMS
from invad_jax.data.maps import enlarge, of_image
from invad_jax.inference import regions
from invad_jax.inference.regions import Region
from invad_jax.scoring import Scores


@dataclass(frozen=True, eq=False)  # arrays have no single truth to compare by
class Prediction:
    """What is known of one image."""

    path: str | None
    """Of its file; None for an image that was handed over."""
    image_score: float
    """Higher is more anomalous; about 0 for a typical normal image."""
    decision: bool
    """Whether it is called anomalous: whether the score lies above the threshold, or is NaN."""
    threshold: float
    """Of its kind of product."""
    normal_percentile: float
    """How many of the normal images that set the threshold score lower or the same; 0..100."""
    heat: tuple[float, float]
    """Values of the map at which a picture begins to show heat, and shows it in full."""
    component: str
    """The kind of product that it was compared with."""
    terms: dict[str, float]
    """Each of `config.TERMS`, of which the score is made."""
    latent_norm: np.ndarray
    """(h, w) float32: how far each position lies from normal, on the grid of the latents; NaN where
    it takes no part."""
    image_size: int
    """Side S of the square that the image was resized to, pixels."""
    extent: tuple[int, int]
    """Rows and columns of it that the image fills, from the top left: (S, S), or of a letterbox."""

    @property
    def anomaly_map(self) -> np.ndarray:
        """`extent` float32: `latent_norm` enlarged to the resized image, higher is more anomalous;
        NaN where a region leaves it out."""
        return of_image(self.latent_norm, self.image_size, self.extent)

    def regions(self, size: tuple[int, int] | None = None) -> list[Region]:
        """Where the map lies above the beginning of heat, the highest peak first.

        Args:
          size: (width, height) of the image that boxes and areas are in pixels of; None: of the
            map.
        """
        rows, columns = self.extent
        return regions.find(self.anomaly_map, self.heat[0], size or (columns, rows))


@dataclass(frozen=True, eq=False)
class Predictions(Sequence[Prediction]):
    """Results of N images: a sequence of `Prediction`, whose fields are arrays here."""

    path: tuple[str | None, ...]
    image_score: np.ndarray
    """(N,) float64; NaN for an image no part of which is looked at."""
    decision: np.ndarray
    """(N,) bool: True = anomalous; False where there is no score."""
    threshold: np.ndarray
    """(N,) float64."""
    normal_percentile: np.ndarray
    """(N,) float64, 0..100."""
    heat: np.ndarray
    """(N, 2) float64."""
    component: tuple[str, ...]
    nll: np.ndarray
    """(N,) float64, nats; this and the next four as in `scoring.Scores`."""
    map_range: np.ndarray
    map_mean: np.ndarray
    map_max: np.ndarray
    map_top: np.ndarray
    latent_norm: np.ndarray
    """(N, h, w) float32."""
    extent: np.ndarray
    """(N, 2) int."""
    image_size: int

    @cached_property
    def anomaly_map(self) -> np.ndarray:
        """(N, S, S) float32, of the squares; that of an image alone is cut to its `extent`."""
        return enlarge(self.latent_norm, self.image_size)

    def __len__(self) -> int:
        return len(self.path)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> Predictions: ...
    def __getitem__(self, index: int | slice) -> Prediction | Predictions:
        """One result, or some of them."""
        if isinstance(index, slice):
            columns = {name: getattr(self, name)[index] for name in _COLUMNS}
            return dataclasses.replace(self, **columns)
        return Prediction(
            path=self.path[index],
            image_score=float(self.image_score[index]),
            decision=bool(self.decision[index]),
            threshold=float(self.threshold[index]),
            normal_percentile=float(self.normal_percentile[index]),
            heat=(float(self.heat[index][0]), float(self.heat[index][1])),
            component=self.component[index],
            terms={name: float(getattr(self, name)[index]) for name in TERMS},
            latent_norm=self.latent_norm[index],
            image_size=self.image_size,
            extent=(int(self.extent[index][0]), int(self.extent[index][1])),
        )


_COLUMNS = (
    *("path", "image_score", "decision", "threshold", "normal_percentile", "heat", "component"),
    *(*TERMS, "latent_norm", "extent"),
)
"""What of `Predictions` has a row for each image."""


def is_finite(scores: Scores) -> np.ndarray:
    """(B,) bool: whether every term of an image is a number, as where any part of it takes part."""
    return np.all([np.isfinite(getattr(scores, name)) for name in TERMS], axis=0)


def joined(batches: Sequence[Predictions]) -> Predictions:
    """Results of batches, one behind the other; at least one batch."""
    columns = {name: _joined([getattr(batch, name) for batch in batches]) for name in _COLUMNS}
    return dataclasses.replace(batches[0], **columns)


def _joined(parts: Sequence[Any]) -> Any:
    """Columns: arrays, or tuples."""
    if isinstance(parts[0], tuple):
        return tuple(itertools.chain.from_iterable(parts))
    return np.concatenate(parts)
