"""Whether training has learnt what the Gaussians do not know: the loss on images kept out of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invad_jax.runtime.log import log
from invad_jax.runtime.sharding import put, replicated, rounded_up, train_batch_sharding
from invad_jax.training.step import Batch, LossFn, TrainState

SAMPLES, MOST_IMAGES = 128, 256
"""Draws of noise and level, at least one an image; the same ones each time."""
WORTH = 0.98
"""A network whose loss is not below so much of a silent network's has learnt nothing that is worth
asking for: over eight kinds of sets, ratios above it changed detection either way by chance."""


class HeldOut:
    """The loss on held-out images, at fixed levels and noise."""

    def __init__(self, loss_fn: LossFn, frozen: Any, rows: np.ndarray, batch_size: int, mesh: Mesh):
        """`rows` are (n, h, w, C) float32, as training sees its own."""
        few = min(len(rows), MOST_IMAGES)
        images = rows[np.arange(few) * len(rows) // few]  # of all kinds: they come in order
        size = rounded_up(batch_size, mesh)
        count = -(-max(SAMPLES, len(images)) // size) * size
        many = np.resize(images, (count, *images.shape[1:])).astype(np.float32)
        self._frozen = put(frozen, replicated(mesh))

        def draw(start: int) -> Batch:
            rng = jax.random.fold_in(jax.random.key(0), start)
            batch = loss_fn.draw({"latent": jnp.asarray(many[start : start + size])}, rng)
            return put(jax.device_get(batch), train_batch_sharding(mesh))

        def loss(params: Any, frozen: Any, batch: Batch) -> jax.Array:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # for `split_over` in networks
                return loss_fn.given(params, frozen, batch)[0]

        self._batches = [draw(start) for start in range(0, count, size)]
        self._loss = jax.jit(loss, out_shardings=replicated(mesh))

    def loss(self, params: Any) -> float:
        """The mean loss of a network."""
        losses = [self._loss(params, self._frozen, batch) for batch in self._batches]
        return float(np.mean(jax.device_get(losses)))

    def accept(self, state: TrainState) -> TrainState:
        """The state, its averaged parameters silent (v = 0) where training was not worth it."""
        where = jax.tree.map(lambda leaf: leaf.sharding, state.ema_params)
        silence = jax.jit(lambda params: jax.tree.map(jnp.zeros_like, params), out_shardings=where)
        silent = silence(state.ema_params)
        trained, of_gaussians = self.loss(state.ema_params), self.loss(silent)
        ratio = trained / of_gaussians
        if ratio < WORTH:
            log.info("held-out loss: %.3f of the Gaussians' alone; the network is kept", ratio)
            return state
        log.warning(
            "held-out loss: %.3f of the Gaussians' alone: the network has learnt nothing of images "
            "it was not trained on; it is left out, and the Gaussians decide",
            ratio,
        )
        return state.replace(ema_params=silent)  # type: ignore[attr-defined]
