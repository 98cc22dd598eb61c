"""What every pretrained network offers, so that one piece of code makes an encoder of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from invad_jax.errors import UserError

Variables = Any
"""Pytree of float32 arrays: nested dicts as flax makes them, normalisations folded in."""


class ImageDecoder(NamedTuple):
    """The way back from a latent to an image, where a network has one."""

    apply: Callable[[Variables, jax.Array], jax.Array]
    """(variables, latent (B, h, w, C)) -> image (B, S, S, 3) float32, about -1..1."""
    abstract: Variables
    convert: Callable[[dict[str, np.ndarray]], Variables]


@dataclass(frozen=True)
class Backbone:
    """A frozen network, its normalisation and how published weights become its variables."""

    features: Callable[[Variables, jax.Array], list[jax.Array]]
    """(variables, normalised image (B, S, S, 3) float32) -> outputs (B, h, w, C), finest first."""
    abstract: Variables
    """`jax.ShapeDtypeStruct`s in the place of the variables."""
    convert: Callable[[dict[str, np.ndarray]], Variables]
    """Tensors as published -> variables; raises UserError for tensors that do not fit."""
    stages: tuple[int, ...]
    """The resolved `encoder.stages`."""
    mean: tuple[float, float, float]
    """Of the network's training images, RGB, 0..255."""
    std: tuple[float, float, float]
    decoder: ImageDecoder | None = None


IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


def resolve_stages(
    stages: tuple[int, ...], default: tuple[int, ...], num_blocks: int
) -> tuple[int, ...]:
    """The stages asked for, or the default when none are.

    Raises:
      UserError: not rising, or not blocks of the network.

    >>> resolve_stages((), default=(0, 2), num_blocks=4)
    (0, 2)
    """
    stages = stages or default
    rising = list(stages) == sorted(set(stages))
    if not rising or stages[0] < 0 or stages[-1] >= num_blocks:
        raise UserError(
            f"encoder.stages={','.join(map(str, stages))}: expected rising block indices from 0 to "
            f"{num_blocks - 1}, such as {','.join(map(str, default))}"
        )
    return stages
