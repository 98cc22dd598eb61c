"""One optimisation step, as a pure function of state and batch, for any loss.

Read next: `training.py`, the loop around it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from invad_jax.config import TrainConfig
from invad_jax.detector import LatentStats, standardise
from invad_jax.diffusion.loss import eps_loss

Params = Any
Batch = dict[str, jax.Array]
LossFn = Callable[[Params, Any, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
"""(params, frozen, batch, rng) -> (mean loss, further scalars to log)."""


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


def make_optimizer(cfg: TrainConfig) -> optax.GradientTransformation:
    """AdamW with linear warm-up, cosine decay and clipping by global norm."""
    warmup = min(cfg.warmup_steps, cfg.num_steps - 1)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=cfg.initial_learning_rate if warmup else cfg.learning_rate,
        peak_value=cfg.learning_rate,
        warmup_steps=warmup,
        decay_steps=cfg.num_steps,
        end_value=cfg.final_learning_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(cfg.grad_clip_norm),
        optax.adamw(schedule, weight_decay=cfg.weight_decay),
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
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Gradient, update, average. Pure; compile it with the state donated.

    Returns:
      The next state, and scalars: `loss`, `grad_norm` (before clipping) and what `loss_fn` adds.
    """
    rng = jax.random.fold_in(state.rng, state.step)
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, scalars), grads = grad_fn(state.params, state.frozen, batch, rng)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ema_decay_at(state.step, ema_decay)
    ema_params = optax.incremental_update(params, state.ema_params, 1.0 - decay)
    state = dataclasses.replace(
        state, step=state.step + 1, params=params, ema_params=ema_params, opt_state=opt_state
    )
    return state, {"loss": loss, "grad_norm": optax.tree.norm(grads), **scalars}


def ema_decay_at(step: jax.Array, ema_decay: float) -> jax.Array:
    """min(ema_decay, (1 + s) / (10 + s)): early averages forget the random start quickly."""
    return jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))


def make_denoiser_loss(
    denoise: Callable[[Params, jax.Array, jax.Array], jax.Array], alpha_bar: jax.Array
) -> LossFn:
    """The diffusion loss on encoder latents, t uniform on 0..T-1.

    Args:
      denoise: (params, x_t, t) -> eps.
      alpha_bar: (T,) float32.

    Returns:
      A `LossFn` whose `frozen` is a `LatentStats` and whose batch has `latent` (B, h, w, C).
    """

    def loss_fn(
        params: Params, frozen: LatentStats, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        x0 = standardise(batch["latent"], frozen)
        t_rng, noise_rng = jax.random.split(rng)
        t = jax.random.randint(t_rng, (x0.shape[0],), 0, len(alpha_bar))
        noise = jax.random.normal(noise_rng, x0.shape)
        losses = eps_loss(lambda x, t: denoise(params, x, t), x0, t, noise, alpha_bar)
        return jnp.mean(losses), {}

    return loss_fn
