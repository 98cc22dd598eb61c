"""A calibration for each kind of product: what is typical of one is not of another.

A model of several kinds judges an image as one of them (`Scores.component`). The score is then on
the scale of that kind's normal images and the threshold is theirs, so that the rate of false alarms
holds for each kind by itself (Mondrian conformal prediction: Vovk et al. 2005, section 4.5).

Read next: `calibration.py`, one kind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from invad_jax.normality import calibration, promise
from invad_jax.normality.calibration import Calibration, Values


@dataclass(frozen=True)
class Calibrations:
    """Those of K kinds, in the order that `Scores.component` counts."""

    names: tuple[str, ...]
    each: tuple[Calibration, ...]

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms that the image score adds up."""
        return tuple(term.name for term in self.each[0].terms)

    def image_score(self, values: Values, component: np.ndarray) -> np.ndarray:
        """The sum of the terms, each on the scale of the kind that the image was judged as.

        Args:
          values: of N images, (N,) each; may hold more than the terms.
          component: (N,) int, of each image.

        Returns:
          (N,) float64, higher is more anomalous; about 0 for a typical normal image of the kind.

        Raises:
          ValueError: a term is not finite, or shapes disagree.
        """
        of_each = np.stack([calibration.image_score(one, values) for one in self.each])  # (K, N)
        return np.take_along_axis(of_each, component[None], axis=0)[0]

    def threshold(self, component: np.ndarray) -> np.ndarray:
        """Images that score above it are called anomalous: (N,) int -> (N,) float64."""
        return np.array([one.threshold for one in self.each])[component]

    def decide(self, score: np.ndarray, component: np.ndarray) -> np.ndarray:
        """Whether images are called anomalous, (N,) bool; one without a score is not good.

        Args:
          score: (N,) from `image_score`.
          component: (N,) int, of each image.
        """
        return ~(score <= self.threshold(component))

    def heat(self, component: int) -> tuple[float, float]:
        """Where heat begins and is full on the map of an image; see `calibration.heat_scale`."""
        return self.each[component].heat

    @property
    def doubts(self) -> tuple[str, ...]:
        """One line for each kind whose asked rate its normal images cannot promise."""
        lines = ((name, promise.doubt(one)) for name, one in self)
        return tuple(f"{name}: {line}" if name else line for name, line in lines if line)

    def __iter__(self) -> Iterator[tuple[str, Calibration]]:
        """Each kind's name and calibration."""
        return zip(self.names, self.each, strict=True)


def far_out(values: Values, component: Sequence[str], terms: Sequence[str]) -> np.ndarray:
    """Which images score far above the others of their kind, (n,) bool; arguments as of `fit`."""
    kind, found = np.array(component), np.zeros(len(component), bool)
    for name in set(component):
        rows = np.flatnonzero(kind == name)
        own = {term: np.asarray(values[term])[rows] for term in terms}
        scale = calibration.fit(own, terms, (0, 1), 0.5, held_out=True)
        found[rows] = calibration.far_out(calibration.image_score(scale, own))
    return found


def fit(
    values: Values,
    component: Sequence[str],
    names: Sequence[str],
    terms: Sequence[str],
    heat: Mapping[str, tuple[float, float]],
    false_positive_rate: float,
    held_out: bool | Collection[str],
) -> Calibrations:
    """Fits each kind on its own normal images; one that has none, on those of all.

    Args:
      values: of n normal images, (n,) each.
      component: (n,) names of the kinds that they were judged as.
      names: of all kinds, in the order of `Scores.component`.
      terms: as all the rest, of `calibration.fit`.
      heat: of each kind that occurs in `component`.
      false_positive_rate: asked of each kind.
      held_out: as there, of all kinds; or the names of those of which it is so.

    Raises:
      UserError: no image, or a rate out of its range.
    """
    kind = np.array(component)
    each = []
    for name in names:
        rows = kind == name
        own = rows if rows.any() else np.ones_like(rows)
        its_heat = heat[name] if rows.any() else max(heat.values())
        chosen = {term: np.asarray(values[term])[own] for term in terms}
        honest = held_out if isinstance(held_out, bool) else name in held_out
        each.append(calibration.fit(chosen, terms, its_heat, false_positive_rate, honest))
    return Calibrations(tuple(names), tuple(each))
