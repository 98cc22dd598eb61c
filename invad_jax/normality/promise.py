"""What a threshold of so many normal images promises of good parts that will come."""

from __future__ import annotations

import math
from fractions import Fraction

from scipy import special

from invad_jax.normality.calibration import Calibration

CONFIDENCE = 0.95
"""With which a false-alarm rate is promised."""


def promised_rate(num_normals: int, exceeding: int = 1) -> float:
    """The false-alarm rate that is not exceeded, at 95 %, whatever the distribution of scores.

    The rate of a threshold at the `exceeding`-th highest of n scores is distributed as
    Beta(exceeding, n + 1 - exceeding) (order statistics; for 1 the exact binomial 1 - 0.05^(1/n)).

    >>> round(promised_rate(299), 4), round(promised_rate(28), 2)
    (0.01, 0.1)
    """
    if not 0 < exceeding <= num_normals:  # of none, or of all, nothing is promised
        return 1.0
    return float(special.betaincinv(exceeding, num_normals + 1 - exceeding, CONFIDENCE))


def images_needed(rate: float, left_out: int = 0) -> int:
    """How many normal images it takes to promise a rate in 0..1, exclusive, on average.

    >>> images_needed(0.01), images_needed(0.01, left_out=1)
    (99, 199)
    """
    return math.ceil((1 + left_out) / Fraction(str(float(rate)))) - 1


def position(calibration: Calibration) -> int:
    """j: the threshold is the j-th highest of the n normal scores, or above it, so that j of n + 1
    normal images may exceed it."""
    return round(calibration.guaranteed_false_positive_rate * (calibration.num_normals + 1))


def percent(rate: float) -> str:
    """Two digits of a rate in 0..1, in percent.

    >>> percent(0.0209), percent(0.17), percent(1.0)
    ('2.1', '17', '100')
    """
    return "100" if rate > 0.995 else f"{100 * rate:.2g}"


def promise(calibration: Calibration) -> str:
    """What false-alarm rate so many images promise, whatever was asked.

    >>> shared = {"terms": (), "threshold": 1.0, "guaranteed_false_positive_rate": 0.1}
    >>> shared |= {"left_out": 0, "heat": (0.0, 1.0), "held_out": True}
    >>> promise(Calibration(false_positive_rate=0.1, num_normals=59, **shared))
    'at 95 % at most 17 % of good parts are called anomalous: 5 of 59 lie above; 10 % was asked'
    """
    n, rate = calibration.num_normals, calibration.false_positive_rate
    above = position(calibration)
    return (
        f"at 95 % at most {percent(promised_rate(n, above))} % of good parts are called "
        f"anomalous: {above - 1} of {n} lie above; {100 * rate:.3g} % was asked"
    )


def doubt(calibration: Calibration) -> str:
    """One line where so few images cannot promise the asked rate, even on average; else empty."""
    n, rate = calibration.num_normals, calibration.false_positive_rate
    if not 0 < rate < 1 or n >= images_needed(rate, calibration.left_out):
        return ""
    promised = promised_rate(n, position(calibration))
    without = f", {calibration.left_out} left out" if calibration.left_out else ""
    return (
        f"a false-alarm rate of {100 * rate:.3g} % cannot be promised by {n} normal images{without}"
        f": at 95 % they promise {percent(promised)} %; on average over such sets it takes "
        f"{images_needed(rate, calibration.left_out)}"
    )
