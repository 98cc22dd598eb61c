"""What detectors that restore share: an image is compared with what restoring made of it, as
published, or (`scoring.prior=fitted`) the difference with those that it makes in normal images.

Read next: `deco_diff.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms.paradigm import Paradigm, PathFn
from invad_jax.paradigms.prior import under_prior
from invad_jax.scoring import Scores, summarise

OfLatents = Callable[[jax.Array, jax.Array], jax.Array]
"""(x0, restored (B, h, w, C)) -> map (B, h, w)."""
OfImages = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
"""(image, restored image (B, S, S, 3) in -1..1, x0, restored) -> map (B, S, S)."""


def restoring(
    config: Config,
    path: PathFn,
    timesteps: Sequence[int],
    asks: frozenset[str],
    compare: OfLatents,
    compare_images: OfImages | None = None,
    raw: bool = False,
) -> Paradigm:
    """A paradigm that compares the end of its path with x0.

    Args:
      config: the experiment.
      path: of an `OutputsFn`.
      timesteps: at which the network is asked.
      asks: the outputs that it reads.
      compare: as published, in the latents.
      compare_images: as published, in images decoded from latents (`scoring.prior=decoded`).
      raw: whether `compare` takes latents as the encoder gives them.

    Raises:
      UserError: `decoded` where there is no such comparison.
    """
    decodes = config.scoring.prior == "decoded" and compare_images is not None
    fitted = config.scoring.prior == "fitted"
    raw = decodes or (raw and not fitted)

    def states(outputs_fn: object, x0: jax.Array) -> jax.Array:
        restored = path(outputs_fn, x0)[-1]
        if fitted:
            return (restored - x0)[:, None]  # (B, 1, h, w, C)
        return jnp.stack([x0, restored], axis=1)  # (B, 2, h, w, C)

    def by_itself(given: Any, states: jax.Array, image_size: int) -> Scores:
        pair = states[:, 0], states[:, 1]
        if decodes and compare_images is not None:
            found = compare_images(given[:, 0], given[:, 1], *pair)  # (B, S, S)
        else:
            found = compare(*pair)  # (B, h, w)
        return summarise(found, jnp.sum(found, axis=(1, 2)), image_size)

    found = Paradigm(
        timesteps=tuple(map(int, timesteps)),
        states=states,
        compare=by_itself,
        lessons=Lessons(),
        terms=("map_max",),
        asks=asks,
        path=path,
        raw=raw,
        decodes=decodes,
    )
    return found if decodes else under_prior(config, found)


def of_difference(of_channels: Callable[[jax.Array], jax.Array]) -> OfLatents:
    """A map of what restoring changed, (B, h, w, C) -> (B, h, w)."""
    return lambda x0, restored: of_channels(restored - x0)


def mean_square(difference: jax.Array) -> jax.Array:
    """Of the channels: (B, h, w, C) -> (B, h, w)."""
    return jnp.mean(jnp.square(difference), axis=-1)
