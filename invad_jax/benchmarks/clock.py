"""Times of several things, taken in turn, so that what the machine does besides falls on all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from invad_jax.runtime import processes

Run = Callable[[], Any]
"""Does something once, and returns when it is done."""
FEWEST = 3
"""Runs in a repeat, however long one takes."""


def interleaved(
    runs: Mapping[str, Run], seconds: float, repeats: int
) -> dict[str, list[list[float]]]:
    """Seconds of each run, a list for each repeat; all processes run equally often.

    Args:
      runs: by name; each runs once before, so that nothing is compiled or read for the first time
        on the clock.
      seconds: of each run in each repeat, at least; and `FEWEST` runs.
      repeats: rounds through all of them.
    """
    for run in runs.values():
        run()
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(processes.seconds_of(run, seconds, FEWEST))
    return times


def now() -> tuple[float, float, float]:
    """Seconds by the wall, of all threads of this process, and of the system for it."""
    return time.perf_counter(), time.process_time(), os.times().system


def alone(run: Run, runs: int = 10) -> list[float]:
    """Seconds of one run, as `now` has them, when nothing else is done; one is off the clock."""
    run()
    start = now()
    for _ in range(runs):
        run()
    return [(end - begun) / runs for begun, end in zip(start, now(), strict=True)]


def summary(repeats: Sequence[Sequence[float]]) -> dict[str, float]:
    """Milliseconds of all runs, and how far apart the medians of the repeats lie, as a share.

    >>> summary([[0.001, 0.001], [0.002, 0.002]])["spread"]
    0.667
    """
    together = np.concatenate([np.asarray(times) for times in repeats])
    medians = [float(np.median(times)) for times in repeats]
    percentiles = {
        f"p{q}_ms": round(1e3 * float(np.percentile(together, q)), 4) for q in (50, 95, 99)
    }
    middle = float(np.median(together))
    return {
        **percentiles,
        "spread": round((max(medians) - min(medians)) / middle, 3),
        "runs": len(together),
    }
