"""Fewer channels: the principal components of the features of normal images.

Wide features (1,536 channels of a vision transformer) are whitened and stored at a cost of their
width, or its square, at each position. What of them varies among normal images lies in far fewer
directions, which are the same at all positions.

Read next: `inference/components.py`, which runs the images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from invad_jax.errors import UserError
from invad_jax.geometry import without_nan
from invad_jax.io.arrays import read_arrays, write_arrays


class Components(NamedTuple):
    """c directions among C channels."""

    mean: Any
    """(C,) float32."""
    basis: Any
    """(C, c) float32: orthogonal columns of length 1, from the most variance to the least."""


class Projected(NamedTuple):
    """The variables of an encoder whose latents are components."""

    backbone: Any
    components: Components


class Moments(NamedTuple):
    """Of n vectors of C channels."""

    count: Any
    """n."""
    mean: Any
    """(C,)."""
    scatter: Any
    """(C, C): the sum of (x - mean)(x - mean)^T."""


def project(components: Components, latent: jax.Array) -> jax.Array:
    """(B, h, w, C) float32 -> (B, h, w, c)."""
    centred = latent - components.mean[None, None, None]
    return jnp.einsum("bhwd,dc->bhwc", centred, components.basis, precision="highest")


def moments(latent: jax.Array, known: jax.Array) -> Moments:
    """Of the vectors of a batch.

    Args:
      latent: (B, h, w, C) float32.
      known: (B,) bool: the images that count; one at least.
    """
    latent, part = without_nan(latent)
    weight = (part & known[:, None, None, None]).astype(jnp.float32)  # (B, h, w, 1)
    count = jnp.sum(weight)
    mean = jnp.sum(weight * latent, axis=(0, 1, 2)) / count
    centred = weight * (latent - mean[None, None, None])
    scatter = jnp.einsum("bhwc,bhwd->cd", centred, centred, precision="highest")
    return Moments(count, mean, scatter)


def merged(one: Moments | None, other: Moments) -> Moments:
    """Of both together, in float64 (Chan, Golub and LeVeque 1979)."""
    new = Moments(*(np.asarray(part, np.float64) for part in other))
    if one is None:
        return new
    count, apart = one.count + new.count, new.mean - one.mean
    between = np.outer(apart, apart) * (one.count * new.count / count)
    mean = one.mean + apart * (new.count / count)
    return Moments(count, mean, one.scatter + new.scatter + between)


def principal(of: Moments, channels: int) -> tuple[Components, float]:
    """The leading components, and the share of the variance that they hold.

    A direction has two signs: the largest entry of each is positive.

    Raises:
      UserError: there are no more vectors than channels.
    """
    C = len(of.mean)
    if of.count <= C:
        raise UserError(
            f"encoder.channels={channels}: {of.count:.0f} positions of normal images have "
            f"{C} channels each; components need more images"
        )
    values, vectors = scipy.linalg.eigh(of.scatter, subset_by_index=(C - channels, C - 1))
    basis = vectors[:, ::-1]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=0)[None], axis=0)
    basis = np.where(largest < 0, -basis, basis)
    share = float(values.sum() / max(np.trace(of.scatter), np.finfo(float).tiny))
    return Components(of.mean.astype(np.float32), basis.astype(np.float32)), share


def of_noise(C: int, channels: int) -> Components:
    """Random directions, for programs that are only timed."""
    noise = np.random.default_rng(0).standard_normal((C, channels))
    basis = np.linalg.qr(noise)[0]
    return Components(np.zeros(C, np.float32), basis.astype(np.float32))


_ADVICE = (
    "without it the model has no latents: restore it, or give `train` again where the images are"
)


def write(path: Path, components: Components, key: dict[str, Any]) -> None:
    """Writes one `.npz` atomically; `key` says what they were made of."""
    write_arrays(path, components._asdict() | {"key": json.dumps(key, sort_keys=True)})


def read(path: Path) -> tuple[Components, dict[str, Any]]:
    """Reads what `write` wrote.

    Raises:
      UserError: missing or damaged.
    """
    with read_arrays(path, _ADVICE) as values:
        return Components(values["mean"], values["basis"]), json.loads(str(values["key"]))
