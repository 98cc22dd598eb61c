"""One image score and one threshold from the terms of a score, with constants of training normals.

`nll` is hundreds to thousands of nats, `map_range` a few units of length: each term is centred and
scaled by its median and spread over normal images, and they are added. Nothing is fitted on
test data, and a single new image has a score. `test_minmax` is the published fusion, which does
need a test set; its numbers are to be quoted under that name.

Read next: `metrics.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy import special

from invad_jax.errors import UserError

_MAD_TO_SIGMA = 1.4826  # makes the median absolute deviation of a Gaussian its standard deviation
_RAREST_RATE = 1e-6  # rates below it, 0 among them, are extrapolated to as if they were this
_HALF_SAYS_ENOUGH = 5  # images; of fewer, the upper half alone is one or two
_FAR_OUT_FROM = 10  # images; of fewer, none can be told to be unlike the others
_FAR_OUT_RATE = 1e-3  # of sets of Gaussian scores in which some image is called far out


@dataclass(frozen=True)
class Term:
    """One term of the image score, on the scale of normal images."""

    name: str
    location: float
    """Its median over normal images."""
    scale: float
    """Its spread, positive."""


@dataclass(frozen=True)
class Calibration:
    """Constants of the image score, and the threshold of the decision, of one kind of product."""

    terms: tuple[Term, ...]
    threshold: float
    """Images that score above it are called anomalous."""
    false_positive_rate: float
    """Asked for: the share of normal images that may be called anomalous, 0..1."""
    guaranteed_false_positive_rate: float
    """What `num_normals` can vouch for with no assumption on the distribution; see `fit`."""
    num_normals: int
    """Images that set the threshold; 0 where it was given."""
    left_out: int
    """How many of them the threshold does not heed, as they are `far_out`."""
    heat: tuple[float, float]
    """Values of an anomaly map at which a picture begins to show heat, and shows it in full."""
    held_out: bool
    """Whether each normal was kept out of what it was judged by: of training, or of the Gaussians
    that it was scored with. The guarantee holds only then, for images that score as they do: those
    that were trained on score lower than new ones."""


Values = Mapping[str, np.ndarray]
"""Name of a term -> (N,), one number an image."""


def fit(
    values: Values,
    terms: Sequence[str],
    heat: tuple[float, float],
    false_positive_rate: float,
    held_out: bool,
) -> Calibration:
    """Fits the constants, and the threshold at a false-positive rate, on normal images only.

    With n normals of which k are `far_out` and rate a, if a >= (k + 1) / (n + 1), the threshold is
    the split-conformal quantile
    (Vovk et al. 2005; Lei et al. 2018): the ceil((n + 1)(1 - a))-th smallest normal score. A new
    normal image exceeds it with probability at most a, whatever the distribution, if it is
    exchangeable with the normals (the median and scale of the terms are fitted on the same
    images, whose influence is of the order 1 / n).

    With fewer normals the quantile lies outside the sample and has to be extrapolated: see
    `upper_limit`. The threshold is then that limit of the images that are not far out, or the
    largest of their scores, if that is higher: k + 1 normals of n + 1 may exceed it, whatever the
    distribution, if those that are far out are mistakes. If they are not, tails as heavy as a
    log-normal's of 1 let the rate be a fifth higher than that.

    Rate 0 is treated as one in a million: no sample excludes a false alarm. Rate 1 puts the
    threshold just below the lowest normal score.

    Args:
      values: of normal images, (n,) each; may hold more than the terms.
      terms: names of those that the image score adds up.
      heat: from `heat_scale` of the same images.
      false_positive_rate: a in [0, 1].
      held_out: whether the images were kept out of training.

    Raises:
      UserError: no image, or a rate out of its range.
      ValueError: a term is not finite, or shapes disagree.

    >>> normal = np.arange(99.0)
    >>> fit({"nll": normal}, ["nll"], (1, 2), 0.05, held_out=True).guaranteed_false_positive_rate
    0.05
    """
    if not 0 <= false_positive_rate <= 1:
        raise UserError(
            f"calibration.false_positive_rate={false_positive_rate}: must lie between 0 and 1"
        )
    columns = _float64(values, terms)
    if not columns or len(columns[0]) == 0:
        raise UserError(
            "calibration: no normal images; data.holdout_fraction=0 calibrates on all training ones"
        )
    fitted = tuple(Term(name, *_location_scale(x)) for name, x in zip(terms, columns, strict=True))
    score = _sum(fitted, columns)
    # In decimals as written: in binary 0.29 * 100 is less than 29.
    exceeding = math.floor(Fraction(str(float(false_positive_rate))) * (len(score) + 1))
    typical = ~far_out(score)
    left_out = len(score) - int(typical.sum())
    if exceeding > left_out:  # then they may exceed the threshold as it is
        typical, left_out = np.full(len(score), True), 0
    return Calibration(
        fitted,
        threshold=_threshold(np.sort(score[typical]), exceeding - left_out, false_positive_rate),
        false_positive_rate=float(false_positive_rate),
        guaranteed_false_positive_rate=max(exceeding, 1 + left_out) / (len(score) + 1),
        num_normals=len(score),
        left_out=left_out,
        heat=heat,
        held_out=held_out,
    )


def upper_limit(score: np.ndarray, rate: float) -> float:
    """What a new normal image exceeds at a rate in (0, 0.5), extrapolated from n >= 2 scores.

    An upper prediction limit of Student's t, m + s sqrt(1 + v / n) t_f(1 - rate), which includes
    the doubt about m and s. From five images on it listens to the upper half alone: m is the median
    (v = pi / 2), s^2 twice the squares above it over n - 1, f = n / 2. Images that are alike (near
    copies among them) then do not widen it, and a tail that is longer above than below is followed.
    Gaussian scores exceed it at 0.76 to 1.07 of a rate of 0.01, skewed ones (gamma of shape 4,
    log-normal of 0.5) at 1.4 to 2.2 times the rate, where mean and standard deviation, which serve
    below five images and are exact for Gaussian scores, give 2.5 to 3.9 times.
    """
    n = len(score)
    if n < _HALF_SAYS_ENOUGH:
        m, square, v, f = score.mean(), score.var(ddof=1), 1.0, n - 1.0
    else:
        m, v, f = np.median(score), math.pi / 2, n / 2
        square = 2 * np.sum(np.square(np.maximum(score - m, 0))) / (n - 1)
    quantile = -special.stdtrit(f, max(rate, _RAREST_RATE))  # of Student's t, from above
    return float(m + math.sqrt(square * (1 + v / n)) * quantile)


def far_out(score: np.ndarray) -> np.ndarray:
    """Which normal images score so far above all others that they are hardly of the same kind.

    At most a tenth of them, (n,) -> (n,) bool: the most that lie above the limit of the rest, at a
    rate at which one set of Gaussian scores in a thousand has such an image. They may be mistakes.
    """
    rising, n = np.sort(score), len(score)
    for count in range(n // 10 if n >= _FAR_OUT_FROM else 0, 0, -1):
        if rising[n - count] > upper_limit(rising[: n - count], _FAR_OUT_RATE / n):
            return np.asarray(score >= rising[n - count])
    return np.zeros(n, bool)


def heat_scale(latent_norm: np.ndarray) -> tuple[float, float]:
    """Where heat begins and where it is full, on the scale of an anomaly map.

    One in a thousand positions of normal images lies above the beginning; full is as far again from
    it as it is from their median. The same colour so means the same on every image.

    Args:
      latent_norm: (n, h, w), of normal images.
    """
    median, low = (float(q) for q in np.nanquantile(latent_norm, (0.5, 0.999)))
    return low, low + max(low - median, 1e-6)


def image_score(calibration: Calibration, values: Values) -> np.ndarray:
    """The sum of the terms on the scale of normal images.

    Args:
      calibration: names the terms.
      values: of N images, (N,) each; may hold more than the terms.

    Returns:
      (N,) float64, higher is more anomalous; about 0 for a typical normal image.

    Raises:
      ValueError: a term is not finite, or shapes disagree.
    """
    columns = _float64(values, [term.name for term in calibration.terms])
    return _sum(calibration.terms, columns)


def test_minmax(nll: np.ndarray, map_range: np.ndarray, category: Sequence[str]) -> np.ndarray:
    """The published fusion: each term min-max scaled over the test set, then added.

    Transductive: an image's score depends on the other test images of its category, the anomalous
    ones included. For comparison with published numbers only.

    Args:
      nll: (N,) nats, of all test images.
      map_range: (N,) of the same images.
      category: (N,) names; the scaling is done within each.

    Returns:
      (N,) float64 in [0, 2), higher is more anomalous.

    Raises:
      ValueError: a term is not finite, or shapes disagree.
    """
    nll, map_range = _float64({"nll": nll, "map_range": map_range}, ("nll", "map_range"))
    names = np.asarray(category)
    if names.shape != nll.shape:
        raise ValueError(f"{len(names)} categories for {len(nll)} images")
    score = np.empty_like(nll)
    for name in np.unique(names):
        rows = names == name
        score[rows] = _minmax(nll[rows]) + _minmax(map_range[rows])
    return score


test_minmax.__test__ = False  # type: ignore[attr-defined]  # else pytest takes it for a test


def _location_scale(x: np.ndarray) -> tuple[float, float]:
    """Median and robust standard deviation.

    Where half of the values are equal, which makes the median deviation 0, the spread is the
    root-mean-square deviation; where all are, it is 1: the term is then only centred.
    """
    location = np.median(x)
    deviation = np.abs(x - location)
    scale = _MAD_TO_SIGMA * np.median(deviation) or np.sqrt(np.mean(deviation**2)) or 1.0
    return float(location), float(scale)


def _threshold(score: np.ndarray, exceeding: int, false_positive_rate: float) -> float:
    """Of `fit`: `score` (n,) rises; `exceeding` of n + 1 normals may lie above the threshold."""
    n = len(score)
    if exceeding > n:
        return float(np.nextafter(score[0], -np.inf))
    if exceeding >= 1:
        return float(score[n - exceeding])
    if n == 1:
        return float(score[-1])  # of the spread nothing is known
    return max(upper_limit(score, false_positive_rate), float(score[-1]))


def _sum(terms: Sequence[Term], columns: Sequence[np.ndarray]) -> np.ndarray:
    parts = [(x - term.location) / term.scale for term, x in zip(terms, columns, strict=True)]
    return np.sum(parts, axis=0)


def _minmax(x: np.ndarray) -> np.ndarray:
    return (x - x.min()) / (x.max() - x.min() + 1e-8)  # the published constant


def _float64(values: Values, names: Sequence[str]) -> list[np.ndarray]:
    """The named terms checked, and wide enough that only the scorer's rounding counts."""
    columns = [np.asarray(values[name], np.float64) for name in names]
    if any(x.ndim != 1 or x.shape != columns[0].shape for x in columns):
        shapes = ", ".join(f"{n} {x.shape}" for n, x in zip(names, columns, strict=True))
        raise ValueError(f"terms must all be (N,): {shapes}")
    if not all(np.isfinite(x).all() for x in columns):
        raise ValueError(f"one of {', '.join(names)} is NaN or infinite")
    return columns
