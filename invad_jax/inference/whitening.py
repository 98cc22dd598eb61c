"""Learns the coordinates in which normal latents are N(0, I), before anything is trained.

With a bank of images the local mean of a training image leaves the image itself out, and its
Gaussian is fitted without it: what the network then trains on is as untypical as a new image is.
Read next: `coordinates.py`, the mathematics; `normality/whitening.py`, the estimation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invad_jax import coordinates as coordinates_lib
from invad_jax.config import Config
from invad_jax.coordinates import Neighbourhood
from invad_jax.detector import LatentStats, standardise
from invad_jax.errors import UserError
from invad_jax.inference.arrays import (
    bank_to_device,
    coordinates_to_device,
    gaussians_to_device,
)
from invad_jax.inference.batches import in_batches
from invad_jax.inference.in_parts import rounds_over
from invad_jax.normality import clusters, image_bank, whitening
from invad_jax.normality.image_bank import FittedBank, bank_of
from invad_jax.normality.mixture import FittedPrior
from invad_jax.normality.whitening import FittedCoordinates
from invad_jax.paradigms.retrieval import neighbourhood
from invad_jax.runtime import processes
from invad_jax.runtime.sharding import batch_sharding, put, replicated, rounded_up
from invad_jax.runtime.workdir import Workdir, learnt_as
from invad_jax.scoring import Prior

TEMPERATURE = 0.25
"""Variance of the weights of the retrieved mean, in units of the mean squared distance of a normal
image to the nearest vector of the others."""


class Learner:
    """Runs normal images through the local mean and the whitening, on a mesh."""

    def __init__(self, config: Config, stats: LatentStats, mesh: Mesh):
        self._cfg = config.whitening
        self._components = config.scoring.components
        self._where = neighbourhood(config)._replace(rounds_over=rounds_over(mesh))
        self._stats = stats
        self._mesh = mesh
        self._batch_size = rounded_up(config.eval.batch_size, mesh)

    def fit(
        self, latents: np.ndarray, labels: Sequence[str]
    ) -> tuple[FittedCoordinates, np.ndarray]:
        """Learns from normal images.

        Args:
          latents: (N, h, w, C) float32, as they come from the encoder.
          labels: N kinds of product.

        Returns:
          The coordinates, and what is left of each image to be whitened, (N, h, w, C) float32.
        """
        cfg = self._cfg
        bank = self._bank(latents, labels) if cfg.mean == "retrieved" else None
        rest = self._rest(bank, latents)
        return FittedCoordinates(self._fit(rest, labels), bank, self._components), rest

    def rest(self, fitted: FittedCoordinates, latents: np.ndarray) -> np.ndarray:
        """What is left of the images that the bank was made of.

        Raises:
          UserError: they come in another order.
        """
        if fitted.bank is not None:
            mean, std = (np.asarray(array, np.float64) for array in self._stats)
            described = (clusters.describe(latents) - mean) / std
            if not image_bank.are_in_order(fitted.bank, described):
                raise UserError(
                    "the normal images come in another order than when they were trained on: "
                    "folders and files need their names of then, below any data.root"
                )
        return self._rest(fitted.bank, latents)

    def training_rows(self, rest: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """The training images in coordinates that were fitted without them, (N, h, w, C)."""
        cfg, rows = self._cfg, np.empty_like(rest)
        kind = np.array(labels)
        centred = cfg.mean == "position"
        for of, gaussians in whitening.cross_fitted(rest, labels, cfg.identity, centred):
            names = {str(name): k for k, name in enumerate(gaussians.name)}
            component = np.array([names[name] for name in kind[of]], np.int32)
            arrays = gaussians_to_device(gaussians)
            rows[of] = self._run(_white_as, arrays, rest[of], component)
        return rows

    def white(self, fitted: FittedCoordinates, latents: np.ndarray) -> np.ndarray:
        """New images in the coordinates."""
        arrays = coordinates_to_device(fitted), self._stats
        return self._run(_white, arrays, latents)

    def _fit(self, rest: np.ndarray, labels: Sequence[str]) -> FittedPrior:
        cfg = self._cfg
        return whitening.fit(rest, labels, cfg.identity, cfg.mean == "position")

    def _bank(self, latents: np.ndarray, labels: Sequence[str]) -> FittedBank:
        x0 = self._run(_standardised, self._stats, latents)
        _, kind = np.unique(labels, return_inverse=True)  # as `whitening.fit` numbers them
        bank = bank_of(x0, kind)
        itself = np.arange(len(latents), dtype=np.int32)
        distance = self._run(_nearest, (bank_to_device(bank), self._stats), latents, itself)
        spread = np.stack([_mean(distance[kind == k]) for k in range(kind.max() + 1)])
        # Where all images are alike: a millionth of the unit that latents are standardised to.
        bandwidth = TEMPERATURE * np.maximum(spread, 1e-6)  # (K, h, w)
        return bank._replace(bandwidth=bandwidth.astype(np.float32))

    def _rest(self, bank: FittedBank | None, latents: np.ndarray) -> np.ndarray:
        if bank is None:
            return self._run(_standardised, self._stats, latents)
        arrays = bank_to_device(bank), self._stats
        itself = np.arange(len(latents), dtype=np.int32)
        return self._run(_left, arrays, latents, bank.kind, itself)

    def _run(self, function: Any, variables: Any, *inputs: np.ndarray) -> Any:
        mesh = self._mesh
        compiled = _compiled(function, self._where, mesh, len(inputs))
        on_mesh = put(variables, replicated(mesh))
        return in_batches(compiled, on_mesh, self._batch_size, mesh, *inputs)


def _mean(distance: np.ndarray) -> np.ndarray:
    """Over the images that have a position, (n, h, w) -> (h, w); 0 where none has it."""
    count = np.isfinite(distance).sum(axis=0)
    return np.asarray(np.nansum(distance, axis=0) / np.maximum(count, 1))


@functools.cache
def _compiled(function: Any, where: Neighbourhood, mesh: Mesh, count: int) -> Any:
    """One for all folds and all of a process's learners."""
    shardings = (replicated(mesh), *(batch_sharding(mesh),) * count)
    return jax.jit(partial(function, where), in_shardings=shardings, out_shardings=replicated(mesh))


class White(NamedTuple):
    """What training and calibration read."""

    rows: np.ndarray
    """(N, h, w, C) float32, each image in coordinates that were fitted without it."""
    held_out: np.ndarray | None
    """(n, h, w, C) float32 of held-out images."""
    key: dict[str, Any]
    """What the coordinates were made of."""


def white_rows(
    config: Config,
    workdir: Workdir,
    stats: LatentStats,
    latents: np.ndarray,
    categories: Sequence[str],
    held_out: np.ndarray | None,
    inputs: Mapping[str, Any],
    mesh: Mesh,
) -> White:
    """Learns the coordinates, or takes those that the workdir has, and gives what is trained on.

    Args:
      config: the experiment.
      workdir: keeps the coordinates.
      stats: of the channels.
      latents: (N, h, w, C) float32 of the normal images.
      categories: N names.
      held_out: (n, h, w, C) float32 of normal images that take no part.
      inputs: has the fingerprints `dataset` and `encoder` of what the latents were made of.
      mesh: devices.
    """
    learner = Learner(config, stats, mesh)
    key = {
        "dataset": inputs["dataset"],
        "encoder": inputs["encoder"],
        "whitening": dataclasses.asdict(config.whitening),
        "components": config.scoring.components,
    }
    labels = clusters.kinds(config.scoring.components, categories, latents)
    kept = workdir.learnt_before(workdir.coordinates, whitening.read, key)
    processes.barrier("coordinates read")  # before any process writes
    if kept:
        rest = learner.rest(kept, latents)
    else:
        kept, rest = learner.fit(latents, labels)
        if processes.is_primary():
            whitening.write(workdir.coordinates, kept, key)
        processes.barrier("coordinates")
        if jax.process_count() > 1:  # whose own may differ in the last bits
            read = partial(whitening.read, workdir.coordinates)
            kept = processes.as_written(partial(learnt_as, read, key))
            rest = learner.rest(kept, latents)
    new = learner.white(kept, held_out) if config.train.num_steps and held_out is not None else None
    return White(learner.training_rows(rest, labels), new, key)


def _standardised(where: Neighbourhood, stats: LatentStats, latent: jax.Array) -> jax.Array:
    return standardise(latent, stats)


def _white_as(
    where: Neighbourhood, gaussians: Prior, rest: jax.Array, component: jax.Array
) -> jax.Array:
    return coordinates_lib.whiten_as(gaussians, rest, component)


def _white(where: Neighbourhood, variables: Any, latent: jax.Array) -> jax.Array:
    coordinates, stats = variables
    return coordinates_lib.whiten(coordinates, where, standardise(latent, stats))[0]


def _nearest(
    where: Neighbourhood, variables: Any, latent: jax.Array, itself: jax.Array
) -> jax.Array:
    bank, stats = variables
    distance = coordinates_lib.local_distance(bank, where, standardise(latent, stats), itself)
    return jnp.where(distance < image_bank.TAKES_NO_PART, distance, jnp.inf)


def _left(
    where: Neighbourhood, variables: Any, latent: jax.Array, kind: jax.Array, itself: jax.Array
) -> jax.Array:
    bank, stats = variables
    x0 = standardise(latent, stats)
    rest = x0 - coordinates_lib.local_mean(bank, where, x0, kind, itself)
    square = jnp.sum(jnp.square(rest), axis=-1, keepdims=True)
    return jnp.where(square < image_bank.TAKES_NO_PART, rest, jnp.nan)
