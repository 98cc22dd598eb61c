"""One Euler rule for all that walk: x / scale moves by v times the difference of two levels.

| | scale | level | v |
| --- | --- | --- | --- |
| inversion, reconstruction, masked, DiAD | sqrt(ab) | sqrt((1 - ab) / ab) | eps |
| DeCo-Diff | 1 | sqrt(1 - ab) | deviation |
| TransFusion | 1 | beta | mask (anomaly - normal) |

`diffusion/inversion.py` has the first row in its own form, which allows ab = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import Config
from invad_jax.diffusion.inversion import EpsFn, StepFn, euler_step
from invad_jax.diffusion.schedule import Plan, make_plan
from invad_jax.errors import UserError
from invad_jax.paradigms.levels import alpha_bar_of


def euler(x: jax.Array, v: jax.Array, level: jax.Array, level_next: jax.Array) -> jax.Array:
    """One step at scale 1; (B, h, w, C) and scalars."""
    return x + (level_next - level) * v


def states_of(
    step: Callable[[Any, Any], Any], start: Any, levels: Any, x_of: Callable[[Any], jax.Array]
) -> jax.Array:
    """The states of a walk.

    Args:
      step: (what is carried, what belongs to a level) -> what is carried on.
      start: what is carried first.
      levels: arrays with an entry a step.
      x_of: what is carried -> x (B, h, w, C).

    Returns:
      (S + 1, B, h, w, C).
    """

    def body(carried: Any, level: Any) -> tuple[Any, jax.Array]:
        carried = step(carried, level)
        return carried, x_of(carried)

    _, states = jax.lax.scan(body, start, jax.tree.map(jnp.asarray, levels))
    return jnp.concatenate([x_of(start)[None], states])


def path_of(eps_fn: EpsFn, x: jax.Array, plan: Plan, step: StepFn = euler_step) -> jax.Array:
    """The states of steps by the predicted noise, as `diffusion.inversion.invert` takes them.

    Args:
      eps_fn: the noise predictor.
      x: (B, h, w, C), at the first level.
      plan: the levels.
      step: `euler_step` or `angle_step`.

    Returns:
      (S + 1, B, h, w, C).
    """

    def on(x: jax.Array, level: Plan) -> jax.Array:
        eps = eps_fn(x, level.timesteps[None])
        return step(x, eps, level.alpha_bar, level.alpha_bar_next)

    return states_of(on, x, plan, lambda x: x)


def strided_timesteps(num_steps: int, num_timesteps: int) -> np.ndarray:
    """S timesteps from 0 on, at the least distance that makes them S (`ddimS` of Song et al.).

    Raises:
      UserError: no distance does.

    >>> strided_timesteps(5, 10).tolist(), strided_timesteps(3, 10).tolist()
    ([0, 2, 4, 6, 8], [0, 4, 8])
    """
    for stride in range(1, num_timesteps):
        timesteps = np.arange(0, num_timesteps, stride)
        if len(timesteps) == num_steps:
            return timesteps
    possible = {len(range(0, num_timesteps, stride)) for stride in range(1, num_timesteps)}
    raise UserError(
        f"inversion.num_steps={num_steps}: of {num_timesteps} timesteps this detector takes "
        f"{', '.join(map(str, sorted(possible)[-8:]))}"
    )


def falling_plan(config: Config) -> Plan:
    """Strided levels, from the noisiest down to no noise."""
    timesteps = strided_timesteps(config.inversion.num_steps, config.diffusion.num_timesteps)
    return make_plan(alpha_bar_of(config), timesteps[::-1], final_alpha_bar=1.0)


def require(config: Config, by: str, **options: Any) -> None:
    """Raises UserError unless the options of `diffusion` are these, as `by` has it."""
    for name, value in options.items():
        if getattr(config.diffusion, name) != value:
            raise UserError(
                f"diffusion.{name}={getattr(config.diffusion, name)}: {by} takes {value}"
            )
