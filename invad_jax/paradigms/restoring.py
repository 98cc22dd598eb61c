"""What detectors that restore share: the difference that restoring made is compared with nothing,
as published, or (`scoring.prior=fitted`) with the differences that it makes in normal images.

Read next: `deco_diff.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms.paradigm import CompareFn, Paradigm, PathFn
from invad_jax.paradigms.prior import under_prior
from invad_jax.scoring import Reference, Scores, summarise


def restoring(
    config: Config,
    path: PathFn,
    timesteps: Sequence[int],
    asks: frozenset[str],
    compare: CompareFn,
) -> Paradigm:
    """A paradigm whose states are what the end of its path differs by from x0.

    Args:
      config: the experiment.
      path: of an `OutputsFn`.
      timesteps: at which the network is asked.
      asks: the outputs that it reads.
      compare: as published, in the latents.
    """

    def states(outputs_fn: object, x0: jax.Array) -> jax.Array:
        return (path(outputs_fn, x0)[-1] - x0)[:, None]  # (B, 1, h, w, C)

    found = Paradigm(
        timesteps=tuple(map(int, timesteps)),
        states=states,
        compare=compare,
        lessons=Lessons(),
        terms=("map_max",),
        asks=asks,
        path=path,
    )
    return under_prior(config, found)


def compare_by(of_channels: Callable[[jax.Array], jax.Array]) -> CompareFn:
    """Scores of a map (B, h, w) of differences (B, h, w, C)."""

    def compare(reference: Reference | None, states: jax.Array, image_size: int) -> Scores:
        found = of_channels(states[:, -1])
        return summarise(found, jnp.sum(found, axis=(1, 2)), image_size)

    return compare
