"""The baseline that inversion replaces: noise a latent, denoise it, look at what came back changed.

A DDIM step (Song et al. 2021, equation 12 without its noise) is the Euler step of the inversion
with the levels falling instead of rising. So there is no second sampler here: `reconstruct` walks a
falling plan with `inversion.invert`.

The published code's version differs in three places: it perturbs one level further out than the
level at which it first asks the network (same number of evaluations), so that r = 1 does not exist;
it reduces the error to one number an image before taking "max - min over positions", which is then
always 0; and it draws the noise anew for each category.

Read next: `paradigms/reconstruction.py`, which compares what came back.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.diffusion.inversion import EpsFn, invert
from invad_jax.diffusion.loss import perturb
from invad_jax.diffusion.schedule import Plan, make_plan


def reconstruction_plan(alpha_bar: np.ndarray, timesteps: np.ndarray, noise_ratio: float) -> Plan:
    """The falling levels of a reconstruction: from the round(r S)-th timestep to no noise at all.

    Args:
      alpha_bar: (T,) float64.
      timesteps: (S,) rising integers, from `schedule.spaced_timesteps`.
      noise_ratio: r in (0, 1]; 1 perturbs to the noisiest of the timesteps. r S is rounded half to
        even, and at least one step is taken.

    Returns:
      A plan of max(1, round(r S)) steps, its timesteps falling and its last `alpha_bar_next` 1.

    >>> from invad_jax.diffusion.schedule import linear_alpha_bar
    >>> alpha_bar = linear_alpha_bar(1000, 1e-4, 2e-2)
    >>> reconstruction_plan(alpha_bar, np.array([0, 500, 999]), 0.6).timesteps.tolist()
    [500, 0]
    """
    steps = max(1, round(noise_ratio * len(timesteps)))
    return make_plan(alpha_bar, timesteps[:steps][::-1], final_alpha_bar=1.0)


def reconstruct(eps_fn: EpsFn, x0: jax.Array, noise: jax.Array, plan: Plan) -> jax.Array:
    """Perturbs x0 to the first level of the plan and denoises it by deterministic DDIM.

    Args:
      eps_fn: the noise predictor, asked len(plan.timesteps) times.
      x0: (B, h, w, C) float32.
      noise: (B, h, w, C) float32, standard normal; or (1, h, w, C), the same for every image, so
        that a score does not depend on the place in the batch.
      plan: from `reconstruction_plan`.

    Returns:
      The last x0_hat, (B, h, w, C) float32.
    """
    start = jnp.broadcast_to(plan.alpha_bar[0], x0.shape[:1])  # (B,)
    return invert(eps_fn, perturb(x0, noise, start), plan)
