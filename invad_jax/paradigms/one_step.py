"""The inversion itself in one step, distilled: a student learns to say at once where the steps of
its teacher lead. Our reading of what OmiAD does to a reconstruction; nobody has published it.

The student is evaluated as any network is that predicts noise, by `inversion.num_steps=1`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.diffusion.inversion import invert
from invad_jax.diffusion.schedule import Plan, make_plan, spaced_timesteps
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.paradigms.objective import Drawn, Objective
from invad_jax.paradigms.paradigm import OutputsFn
from invad_jax.paradigms.walk import require

TEACHER_STEPS = 10
STUDENT, TEACHER = "student", "teacher"


def objective(config: Config) -> Objective:
    """Squared error of the student's x_T, in one step, against the teacher's."""
    require(config, "train.objective=one_step", prediction="eps")
    one, many = _plan(config, 1), _plan(config, TEACHER_STEPS)

    def loss(outputs_fn: OutputsFn, x0: jax.Array, drawn: Drawn) -> jax.Array:
        def ask(x: jax.Array, t: jax.Array, **of: object) -> jax.Array:
            return outputs_fn(x, t, **of)["eps"]

        right = invert(partial(ask, of=TEACHER, held=True), jax.lax.stop_gradient(x0), many)
        error = invert(ask, x0, one) - jax.lax.stop_gradient(right)
        return jnp.mean(jnp.square(error), axis=(1, 2, 3))

    return Objective(lambda latent, rng: {}, loss, says=(("eps", 0),), copies=(STUDENT, TEACHER))


def _plan(config: Config, steps: int) -> Plan:
    timesteps = spaced_timesteps("linspace", steps, config.diffusion.num_timesteps)
    return make_plan(alpha_bar_of(config), timesteps)
