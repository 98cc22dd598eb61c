"""TransFusion (Fucka et al., ECCV 2024): transparency is the diffusion variable. A network says
what is anomalous, what would be normal and where, and the anomaly is faded out there, step by step.

As published, the level at which training shows no mask is never asked, and the sum of the masks is
divided by the number of levels all the same.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import Config
from invad_jax.errors import UserError
from invad_jax.paradigms.paradigm import OutputsFn, Paradigm
from invad_jax.paradigms.restoring import compare_by, restoring
from invad_jax.paradigms.walk import euler, states_of


def paradigm(config: Config) -> Paradigm:
    """Fading out, compared by the squared change a channel."""
    levels = config.diffusion.num_timesteps
    if config.inversion.num_steps != levels - 2:
        raise UserError(
            f"inversion.num_steps={config.inversion.num_steps}: this detector goes through all of "
            f"its levels, {levels - 2}"
        )
    beta = beta_of(levels)
    timesteps = np.arange(levels - 2, 0, -1)

    def path(outputs_fn: OutputsFn, x0: jax.Array, **given: Any) -> jax.Array:
        def step(carried: tuple[jax.Array, jax.Array], level: Any) -> Any:
            (x, mask), (t, now, then) = carried, level
            found = outputs_fn(x, t[None], mask=mask, **given)
            mask = (found["mask_logits"] > 0).astype(x.dtype)
            return euler(x, velocity(found, mask, now), now, then), mask

        start = x0, jnp.zeros((*x0.shape[:3], 1))
        steps = timesteps.astype(np.int32), beta[timesteps], beta[timesteps - 1]
        return states_of(step, start, steps, lambda carried: carried[0])

    asks = frozenset({"noise", "mean", "mask_logits"})
    return restoring(config, path, timesteps.tolist(), asks, compare_by(_squared))


def beta_of(levels: int) -> np.ndarray:
    """How opaque an anomaly is at each level, (T,) float32 from 0 to 1."""
    return (np.arange(levels) / (levels - 1)).astype(np.float32)


def velocity(found: dict[str, jax.Array], mask: jax.Array, beta: jax.Array) -> jax.Array:
    """What becomes of x as beta rises: where the mask is 1, the normal image gives way to the
    anomaly, of which the network says `noise` = beta times it."""
    return mask * (found["noise"] / beta - found["mean"])


def _squared(difference: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(difference), axis=-1)
