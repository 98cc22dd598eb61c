"""From data to noise: Euler steps of the probability-flow ODE. The heart of the method.

In y = x / sqrt(alpha_bar) and sigma = sqrt((1 - alpha_bar) / alpha_bar) the ODE of Song et al.
(2021) reads dy/dsigma = eps(x, t); `euler_step` is one Euler step of it (InvAD, section 3; DDIM
read backwards). Read next: `scoring.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.diffusion.schedule import Plan

EpsFn = Callable[[jax.Array, jax.Array], jax.Array]
"""(x_t (B, h, w, C), t (1,) or (B,)) -> eps, shaped as x_t."""
StepFn = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
"""(x, eps, alpha_bar, alpha_bar_next) -> x at the next level."""


def euler_step(
    x: jax.Array, eps: jax.Array, alpha_bar: jax.Array, alpha_bar_next: jax.Array
) -> jax.Array:
    """Moves x from one noise level to the next along the ODE.

    Args:
      x: (B, h, w, C), the state at level `alpha_bar`.
      eps: (B, h, w, C), the noise predicted for it.
      alpha_bar: scalar in (0, 1].
      alpha_bar_next: scalar in [0, 1]; 0 returns `eps` itself, 1 returns x0_hat.
    """
    x0_hat = (x - jnp.sqrt(1.0 - alpha_bar) * eps) / jnp.sqrt(alpha_bar)
    return jnp.sqrt(alpha_bar_next) * x0_hat + jnp.sqrt(1.0 - alpha_bar_next) * eps


def angle_step(
    x: jax.Array, eps: jax.Array, alpha_bar: jax.Array, alpha_bar_next: jax.Array
) -> jax.Array:
    """`euler_step` in the angle phi = arccos sqrt(alpha_bar), where the ODE reads dx/dphi = v.

    The optimal v of white Gaussian data is 0, so their latents stay what they are, at any number of
    steps. Arguments as `euler_step`, but for `alpha_bar` in (0, 1).
    """
    v = (eps - jnp.sqrt(1.0 - alpha_bar) * x) / jnp.sqrt(alpha_bar)
    phi, phi_next = (jnp.arccos(jnp.sqrt(level)) for level in (alpha_bar, alpha_bar_next))
    return x + (phi_next - phi) * v


def shrinkage(plan: Plan) -> float:
    """What `euler_step` multiplies white Gaussian latents by, from the first to the last level."""
    phi, phi_next = (
        np.arccos(np.sqrt(np.asarray(level, np.float64)))
        for level in (plan.alpha_bar, plan.alpha_bar_next)
    )
    return float(np.prod(np.cos(phi_next - phi)))


def invert(eps_fn: EpsFn, x0: jax.Array, plan: Plan, step: StepFn = euler_step) -> jax.Array:
    """Carries latents to noise in S = len(plan.timesteps) function evaluations.

    Deterministic. One timestep serves the whole batch, so `eps_fn` is given t of shape (1,).

    Args:
      eps_fn: the noise predictor.
      x0: (B, h, w, C) float32.
      plan: from `schedule.make_plan`.
      step: `euler_step` or `angle_step`.

    Returns:
      x_T, (B, h, w, C) float32: close to N(0, I) for typical x0.
    """
    timesteps, alpha_bar, alpha_bar_next = map(jnp.asarray, plan)

    def body(i: jax.Array, x: jax.Array) -> jax.Array:
        eps = eps_fn(x, timesteps[i][None])  # (B, h, w, C)
        return step(x, eps, alpha_bar[i], alpha_bar_next[i])

    return jax.lax.fori_loop(0, len(plan.timesteps), body, x0)
