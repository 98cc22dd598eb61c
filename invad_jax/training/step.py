"""One optimisation step, as a pure function of state and batch, for any loss.

Read next: `loop.py`, the loop around it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from invad_jax.config import TrainConfig
from invad_jax.detector import LatentStats, standardise
from invad_jax.paradigms.objective import Objective

LOWEST_LEARNING_RATE = 1e-6
"""Where the warm-up begins and the cosine ends; published."""

Params = Any
Batch = dict[str, jax.Array]
Loss = tuple[jax.Array, dict[str, jax.Array]]
"""(mean loss, further scalars to log: means over the batch, too)."""


class LossFn(NamedTuple):
    """A loss in two parts, so that a batch can be taken in pieces and mean the same."""

    draw: Callable[[Batch, jax.Array], Batch]
    """(batch, rng) -> the batch and its random numbers, which are drawn for all of it at once."""
    given: Callable[[Params, Any, Batch], Loss]
    """(params, frozen, rows of what `draw` returns) -> loss; has nothing random."""

    def __call__(self, params: Params, frozen: Any, batch: Batch, rng: jax.Array) -> Loss:
        """The loss of a whole batch."""
        return self.given(params, frozen, self.draw(batch, rng))


@flax.struct.dataclass
class TrainState:
    """All that training carries from step to step."""

    step: jax.Array
    """() int32: optimiser steps done."""
    params: Params
    ema_params: Params
    """Exponential moving average of `params`; what evaluation uses."""
    opt_state: optax.OptState
    rng: jax.Array
    """Key of the run; step s draws from `fold_in(rng, s)`."""
    frozen: Any
    """Arrays that the loss reads and training never changes, such as latent statistics."""

    def model(self) -> dict[str, Any]:
        """What evaluation needs, as a checkpoint keeps it."""
        return {"params": self.params, "ema_params": self.ema_params, "frozen": self.frozen}

    def optimizer(self) -> dict[str, Any]:
        """What only training needs, as a checkpoint keeps it."""
        return {"step": self.step, "opt_state": self.opt_state, "rng": self.rng}


CLIP_NORM = 1.0
"""Of the gradients, global; published."""


def make_optimizer(cfg: TrainConfig) -> optax.GradientTransformation:
    """Adam with linear warm-up, cosine decay and clipping by global norm.

    Published as AdamW with a weight decay of 0.
    """
    steps = max(cfg.num_steps, 1)
    warmup = min(cfg.warmup_steps, steps - 1)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=LOWEST_LEARNING_RATE if warmup else cfg.learning_rate,
        peak_value=cfg.learning_rate,
        warmup_steps=warmup,
        decay_steps=steps,
        end_value=LOWEST_LEARNING_RATE,
    )
    return optax.chain(
        optax.clip_by_global_norm(CLIP_NORM),
        optax.adam(schedule),
    )


def create_state(
    params: Params, frozen: Any, rng: jax.Array, tx: optax.GradientTransformation
) -> TrainState:
    """The state before the first step; the average starts at the initial parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(params),
        rng=rng,
        frozen=frozen,
    )


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    ema_decay: float,
    grad_accumulation: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Gradient, update, average. Pure; compile it with the state donated.

    Args:
      state: of the step before.
      batch: B rows each.
      loss_fn: what is minimised.
      tx: what minimises it.
      ema_decay: see `ema_decay_at`.
      grad_accumulation: parts, a divisor of B, that the batch is taken through one after another.
        Up to the order of sums the result does not depend on it.

    Returns:
      The next state, and scalars: `loss`, `grad_norm` (before clipping) and what `loss_fn` adds.
    """
    rng = jax.random.fold_in(state.rng, state.step)
    (loss, scalars), grads = _loss_and_gradient(
        loss_fn.given, state.params, state.frozen, loss_fn.draw(batch, rng), grad_accumulation
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ema_decay_at(state.step, ema_decay)
    ema_params = optax.incremental_update(params, state.ema_params, 1.0 - decay)
    state = dataclasses.replace(
        state, step=state.step + 1, params=params, ema_params=ema_params, opt_state=opt_state
    )
    return state, {"loss": loss, "grad_norm": optax.tree.norm(grads), **scalars}


def _loss_and_gradient(
    given: Callable[[Params, Any, Batch], Loss],
    params: Params,
    frozen: Any,
    batch: Batch,
    num_parts: int,
) -> tuple[Loss, Params]:
    """Means over the batch of the loss, of its scalars and of the gradient."""
    grad_fn = jax.value_and_grad(given, has_aux=True)
    if num_parts == 1:
        return grad_fn(params, frozen, batch)

    def split(rows: jax.Array) -> jax.Array:
        # Every num_parts-th row: a device then finds all its parts among its own rows.
        rows = rows.reshape(-1, num_parts, *rows.shape[1:])  # (B / parts, parts, ...)
        return jnp.moveaxis(rows, 1, 0)  # (parts, B / parts, ...)

    def add_part(total: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, grad_fn(params, frozen, part)), None

    parts = jax.tree.map(split, batch)
    shapes = jax.eval_shape(grad_fn, params, frozen, jax.tree.map(lambda rows: rows[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add_part, zeros, parts)
    return jax.tree.map(lambda leaf: leaf / num_parts, total)


def ema_decay_at(step: jax.Array, ema_decay: float) -> jax.Array:
    """min(ema_decay, (1 + s) / (10 + s)): early averages forget the random start quickly."""
    return jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))


def make_loss(
    ask: Callable[..., dict[str, jax.Array]], objective: Objective, standardised: bool = False
) -> LossFn:
    """The loss of an objective on encoder latents.

    Args:
      ask: (params, x_t, t, what else the network sees by name) -> its outputs by name.
      objective: what is drawn, and what is minimised.
      standardised: whether the latents come in the coordinates that the network is trained in.

    Returns:
      A `LossFn` whose `frozen` is a `LatentStats` and whose batch has `latent` (B, h, w, C).
    """

    def draw(batch: Batch, rng: jax.Array) -> Batch:
        return {**batch, **objective.draw(batch["latent"], rng)}

    def given(params: Params, frozen: LatentStats, batch: Batch) -> Loss:
        rows = {
            name: standardise(array, frozen)
            if name.startswith("latent") and not standardised
            else array
            for name, array in batch.items()
        }
        x0 = rows.pop("latent")
        return jnp.mean(objective.loss(partial(ask, params), x0, rows)), {}

    return LossFn(draw, given)
