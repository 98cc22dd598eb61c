"""Whether good images of today are those of the calibration, and in words what has moved.

Each comparison is a permutation test (Fisher): how often images that are dealt out again at random
differ as much; false alarms are counted against what a threshold of so many images lets expect. No
distribution is assumed, and with few images little is claimed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import special

from invad_jax.io.arrays import read_arrays, write_arrays
from invad_jax.normality import clusters, promise
from invad_jax.normality.calibration import Calibration

FEWEST = 5
"""Images of a kind of which something is said."""
CHANCE = 0.002
"""A difference that is rarer by chance has moved: of the five tests together, one in a hundred."""
_DEALS = 4_999
"""At random; of large groups a fifth, where the deal that was made does not come again."""
_LARGE = 1_000
_TOGETHER = 13
"""Images that can be dealt out in more than 2 / CHANCE ways: as the two groups are, and the other
way round, is by chance."""
_PLACES = (("top", "middle", "bottom"), ("left", "centre", "right"))


class Profile(NamedTuple):
    """What is kept of n normal images beside their scores."""

    feature: np.ndarray
    """(n, C) float32: the mean of each channel of the latent over its positions."""
    contrast: np.ndarray
    """(n,) float32: how much the channels differ from position to position, root mean square."""
    latent_norm: np.ndarray
    """(n, h, w) float32: the map, on the grid of the latents; 0 where an image takes no part."""

    def rows(self, which: np.ndarray) -> Profile:
        """Some of the images."""
        return Profile(*(array[which] for array in self))


class Group(NamedTuple):
    """Images of one kind of product."""

    score: np.ndarray
    """(n,) float64: image scores."""
    profile: Profile | None
    """None where none was kept."""


class Finding(NamedTuple):
    """One line, and whether it says that something has moved."""

    text: str
    moved: bool


def profile_of(latent: np.ndarray, latent_norm: np.ndarray) -> Profile:
    """Of latents (n, h, w, C) as they come from the encoder, and their maps (n, h, w)."""
    variance = np.stack([np.nanvar(one, axis=(0, 1)) for one in latent])  # (n, C)
    feature = clusters.describe(latent).astype(np.float32)
    return Profile(feature, np.sqrt(variance.mean(axis=-1)), np.nan_to_num(latent_norm))


def joined(*profiles: Profile) -> Profile:
    """Images behind images."""
    return Profile(*(np.concatenate(parts) for parts in zip(*profiles, strict=True)))


def write(path: Path, profile: Profile) -> None:
    """Writes a profile atomically."""
    write_arrays(path, profile._asdict())


def read(path: Path) -> Profile | None:
    """Reads what `write` wrote; None where there is none.

    Raises:
      UserError: it is damaged.
      UnavailableError: the store that it lies in does not answer.
    """
    if not path.is_file():
        return None
    with read_arrays(path, "delete it") as values:
        return Profile(*(values[name] for name in Profile._fields))


def compare(stored: Group, new: Group, calibration: Calibration) -> list[Finding]:
    """What has moved from the stored good images of a kind to new ones.

    Args:
      stored: that the calibration was made of.
      new: of today.
      calibration: of the kind.
    """
    count, known = len(new.score), len(stored.score)
    if min(count, known) < FEWEST or count + known < _TOGETHER:
        takes = f"it takes {FEWEST} of each, and {_TOGETHER} in all"
        return [Finding(f"{count} images beside {known} say nothing yet: {takes}", False)]
    found = [_scores(stored.score, new.score), _alarms(new.score, calibration)]
    if stored.profile is None or new.profile is None:
        return [*found, Finding("features: not kept when this was calibrated", False)]
    return [
        *found,
        _features(stored.profile.feature, new.profile.feature),
        _contrast(stored.profile.contrast, new.profile.contrast),
        _where(stored.profile.latent_norm, new.profile.latent_norm),
    ]


def alarm_interval(alarms: int, count: int) -> tuple[float, float]:
    """The rates that `alarms` of `count` images agree with, at 95 % (Clopper and Pearson 1934).

    >>> [round(bound, 3) for bound in alarm_interval(0, 36)]
    [0.0, 0.097]
    """
    low = special.betaincinv(alarms, count - alarms + 1, 0.025) if alarms else 0.0
    high = special.betaincinv(alarms + 1, count - alarms, 0.975) if alarms < count else 1.0
    return float(low), float(high)


def _scores(stored: np.ndarray, new: np.ndarray) -> Finding:
    both = np.sort(np.concatenate([stored, new]))

    def largest_gap(a: np.ndarray, b: np.ndarray) -> float:  # of Kolmogorov and Smirnov
        shares = (np.searchsorted(np.sort(x), both, side="right") / len(x) for x in (a, b))
        return float(np.max(np.abs(np.subtract(*shares))))

    before, now = np.median(stored), np.median(new)
    moved, chance = _test(stored, new, largest_gap)
    direction = "higher" if now > before else "lower"
    return Finding(
        f"scores: {f'have moved, {direction}' if moved else 'as before'}: median {before:.2f} "
        f"-> {now:.2f} spreads of normal images ({chance})",
        moved,
    )


def chance_of_alarms(alarms: int, count: int, calibration: Calibration) -> float:
    """How often `count` images like those of the calibration give so many false alarms or more.

    The rate of a threshold that j of n + 1 may exceed is distributed as Beta(j, n + 1 - j), so that
    the number is beta-binomial: whatever the distribution of the scores.
    """
    j, n = promise.position(calibration), calibration.num_normals
    if not 0 < j <= n:  # any number may be alarms, or nothing is known
        return 1.0
    k = np.arange(alarms, count + 1)
    ways = special.gammaln(count + 1) - special.gammaln(k + 1) - special.gammaln(count - k + 1)
    log_chance = ways + special.betaln(k + j, count - k + n + 1 - j) - special.betaln(j, n + 1 - j)
    return float(np.sum(np.exp(log_chance)))


def _alarms(new: np.ndarray, calibration: Calibration) -> Finding:
    alarms, count = int(np.sum(new > calibration.threshold)), len(new)
    low, high = alarm_interval(alarms, count)
    moved = alarms > 0 and chance_of_alarms(alarms, count, calibration) < CHANCE
    return Finding(
        f"false alarms: {alarms} of {count}{', more than before' if moved else ''}: a rate of "
        f"{100 * low:.3g} to {100 * high:.3g} % at 95 %, and "
        f"{100 * calibration.false_positive_rate:.3g} % was asked",
        moved,
    )


def _features(stored: np.ndarray, new: np.ndarray) -> Finding:
    scale = _spread(stored, new)

    def mean_shift(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean(np.abs(a.mean(axis=0) - b.mean(axis=0)) / scale))

    moved, chance = _test(stored, new, mean_shift)
    return Finding(
        f"features: {'have moved' if moved else 'as before'}: their means by "
        f"{mean_shift(stored, new):.2f} spreads between images ({chance})",
        moved,
    )


def _contrast(stored: np.ndarray, new: np.ndarray) -> Finding:
    tiny = np.finfo(np.float32).tiny  # a grid of one position has no contrast

    def ratio(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(np.log((np.mean(b) + tiny) / (np.mean(a) + tiny))))

    moved, chance = _test(stored, new, ratio)
    change = 100 * ((np.mean(new) + tiny) / (np.mean(stored) + tiny) - 1)
    words = ("more" if change > 0 else "less") + " contrast, as by light or focus"
    return Finding(
        f"contrast of features: {words if moved else 'as before'}: {change:+.1f} % ({chance})",
        moved,
    )


def _where(stored: np.ndarray, new: np.ndarray) -> Finding:
    scale = _spread(stored, new)

    def rise(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (b.mean(axis=0) - a.mean(axis=0)) / scale

    moved, chance = _test(stored, new, lambda a, b: float(np.max(rise(a, b))))
    most = rise(stored, new)
    row, column = map(int, np.unravel_index(np.argmax(most), most.shape))
    place = " ".join(
        words[min(3 * at // side, 2)]
        for words, at, side in zip(_PLACES, (row, column), most.shape, strict=True)
    ).replace("middle centre", "centre")
    return Finding(
        f"where: {f'the map is higher at the {place}' if moved else 'nowhere more than before'}: "
        f"most at row {row + 1}, column {column + 1} of {most.shape[0]} x {most.shape[1]}, by "
        f"{most[row, column]:.1f} spreads between images ({chance})",
        moved,
    )


def _spread(stored: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Standard deviation over the images of both groups, which knows nothing of who is in which; of
    what never changes a thousandth of the usual one."""
    std = np.concatenate([stored, new]).std(axis=0)
    return np.maximum(std, max(1e-3 * float(np.median(std)), 1e-12))


def _test(
    stored: np.ndarray, new: np.ndarray, statistic: Callable[[np.ndarray, np.ndarray], float]
) -> tuple[bool, str]:
    """Whether a statistic is larger than chance lets it be, and how often it is by chance."""
    together, count = np.concatenate([stored, new]), len(stored)
    seen = statistic(stored, new)
    deals = [statistic(together[a], together[b]) >= seen for a, b in _deals(len(together), count)]
    chance = float(np.mean(deals))
    return chance < CHANCE, f"by chance in {100 * chance:.3g} % of cases"


def _deals(total: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the images of the first group and of the second: in all ways where those are few,
    else in the one that was made and in random ones."""
    everybody = np.arange(total)
    if math.comb(total, count) <= _DEALS:
        for first in itertools.combinations(range(total), count):
            yield np.array(first), np.setdiff1d(everybody, first)
        return
    yield everybody[:count], everybody[count:]
    rng = np.random.default_rng(0)
    for _ in range(_DEALS if total <= _LARGE else _DEALS // 5):
        dealt = rng.permutation(total)
        yield dealt[:count], dealt[count:]
