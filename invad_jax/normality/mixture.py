"""Fits what inverted latents of normal images look like: a mixture of Gaussians, by position.

A handful of Euler steps does not carry normal images to N(0, I): what is left is systematic, and
can be learnt from normal images alone. A model of several kinds of product gets a component for
each. Test images take no part.

Read next: `gaussian.py`, one component; `scoring.py`, which scores with it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from invad_jax.errors import UserError
from invad_jax.normality import gaussian
from invad_jax.normality.gaussian import Gaussian, Moments


class Component(NamedTuple):
    """Normal images of one kind."""

    name: str
    states: Iterable[np.ndarray]
    """Batches (b, M, h, w, C) float32 of what is scored, N >= 2 images in all; read once."""


@dataclass(frozen=True)
class FittedPrior:
    """The arrays of `scoring.Prior` on the host, and how they came about."""

    mean: np.ndarray
    """(K, M, h, w, C) float32."""
    projection: np.ndarray
    """(K, M, h, w, r, C) float32."""
    inv_std: np.ndarray
    """(K, M, h, w, C) float32; empty where `projection` whitens."""
    log_det: np.ndarray
    """(K, h, w) float32, nats."""
    log_weight: np.ndarray
    """(K,) float32."""
    name: np.ndarray
    """(K,) text: the kinds of product."""
    shrinkage: np.ndarray
    """(K, M) of `gaussian.Gaussian`."""


Estimator = Callable[[Moments], Gaussian]


def fit(components: Iterable[Component], estimate: Estimator = gaussian.fit) -> FittedPrior:
    """Fits a Gaussian to each state and position of each component, in one pass over the images.

    Memory: 24 M h w C^2 bytes beside a batch for the component at hand, and twice the result, which
    is 4 K M h w C r.

    Raises:
      UserError: a component of fewer than two images.
    """
    parts = [_fit_component(component, estimate) for component in components]
    columns = {
        field.name: np.stack([part[field.name] for part in parts])
        for field in dataclasses.fields(FittedPrior)
        if field.name != "log_weight"
    }
    count = np.array([part["count"] for part in parts], np.float64)
    return FittedPrior(log_weight=np.log(count / count.sum()).astype(np.float32), **columns)


def check_count(name: str, count: int) -> None:
    """Raises UserError unless a component of so many images can be fitted."""
    if count < 2:
        raise UserError(
            f"{name!r} has {count} normal image to fit a Gaussian to, and needs two; give more, or "
            "scoring.components=one, which fits all kinds together"
        )


def _fit_component(component: Component, estimate: Estimator) -> dict[str, np.ndarray]:
    batches = iter(component.states)
    first = next(batches)
    _, M, h, w, C = first.shape
    flat = (batch.reshape(-1, M * h * w, C) for batch in itertools.chain([first], batches))
    of_all = gaussian.moments(flat)
    check_count(component.name, of_all.count)
    grids = [
        Moments(of_all.count, mean, covariance)
        for mean, covariance in zip(
            np.split(of_all.mean, M), np.split(of_all.covariance, M), strict=True
        )
    ]
    fitted = [estimate(of_state) for of_state in grids]
    inv_std = [f.factor.inv_std for f in fitted if f.factor.inv_std is not None]
    log_det = np.sum([f.factor.log_det for f in fitted], axis=0)  # (P,)

    def grid(arrays: list[np.ndarray]) -> np.ndarray:
        stacked = np.stack(arrays, dtype=np.float32, casting="same_kind")  # (M, P, ...)
        return stacked.reshape(M, h, w, *stacked.shape[2:])

    return {
        "mean": grid([f.mean for f in fitted]),
        "projection": grid([f.factor.projection for f in fitted]),
        "inv_std": grid(inv_std) if inv_std else np.empty(0, np.float32),
        "log_det": log_det.reshape(h, w).astype(np.float32),
        "name": np.array(component.name),
        "shrinkage": np.array([f.shrinkage for f in fitted]),
        "count": np.array(of_all.count),
    }


PADIM_REGULARISATION = 0.01
"""Times the identity, added to each covariance; published. It is meant for latents of about unit
variance, as `train.latent_stats=channel` makes them."""


def padim(of: Moments) -> Gaussian:
    """The sample covariance of each position, regularised as published (Defard et al. 2021)."""
    unbiased = of.count / (of.count - 1)
    added = PADIM_REGULARISATION * np.eye(of.mean.shape[-1])
    return Gaussian(of.mean, gaussian.precision(unbiased * S + added for S in of.covariance), 0)
