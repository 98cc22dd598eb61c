"""The training objective: predict the noise (Ho et al. 2020, equation 14), or v."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def perturb(x0: jax.Array, noise: jax.Array, alpha_bar: jax.Array) -> jax.Array:
    """x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise, one level per sample.

    Args:
      x0: (B, ...) float32.
      noise: (B, ...) float32.
      alpha_bar: (B,) float32, the level of each sample.
    """
    level = alpha_bar.reshape(alpha_bar.shape + (1,) * (x0.ndim - 1))  # (B, 1, ..., 1)
    return jnp.sqrt(level) * x0 + jnp.sqrt(1.0 - level) * noise


def eps_loss(
    eps_fn: Callable[[jax.Array, jax.Array], jax.Array],
    x0: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    alpha_bar: jax.Array,
    part: jax.Array | None = None,
) -> jax.Array:
    """Squared error of the predicted noise, averaged over positions and channels.

    Args:
      eps_fn: (x_t, t) -> predicted noise, shaped as x_t.
      x0: (B, h, w, C) float32, clean latents.
      t: (B,) int32 in 0..T-1.
      noise: (B, h, w, C) float32, standard normal.
      alpha_bar: (T,) float32, the whole schedule.
      part: (B, h, w, 1) bool, the positions that are averaged over; None: all.

    Returns:
      (B,) float32.
    """
    x_t = perturb(x0, noise, alpha_bar[t])
    return _mean_square(eps_fn(x_t, t) - noise, part)


def v_loss(
    v_fn: Callable[[jax.Array, jax.Array], jax.Array],
    x0: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    alpha_bar: jax.Array,
    part: jax.Array | None = None,
) -> jax.Array:
    """Squared error of v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0 (Salimans & Ho 2022).

    Arguments and result as `eps_loss`. For white Gaussian x0 the best v is 0, and its loss 1.
    """
    level = alpha_bar[t]
    target = perturb(noise, -x0, level)
    return _mean_square(v_fn(perturb(x0, noise, level), t) - target, part)


def _mean_square(error: jax.Array, part: jax.Array | None) -> jax.Array:
    """Of each row, (B,), over the positions of a part or over all."""
    where = None if part is None else jnp.broadcast_to(part, error.shape)
    return jnp.mean(jnp.square(error), axis=range(1, error.ndim), where=where)
