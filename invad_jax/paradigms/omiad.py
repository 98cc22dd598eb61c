"""One step: a network distilled from a masked diffusion model says at once what an image looks like
when it is normal. Our reading of OmiAD (Feng et al., ICML 2025), whose code is not public.

The student is asked once, at half of the noise levels. It learns without images: what it makes of a
noisy latent is noised again, and two scores, the teacher's and one that follows the student, say in
which direction normal latents lie (score identity distillation, Zhou et al. 2024). All three start
as the teacher. With the adversarial term, the network that follows the student also tells real
latents from the student's, by one further layer, and the student learns to pass for real.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from invad_jax.config import Config
from invad_jax.diffusion.loss import perturb
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.paradigms.objective import Drawn, Objective
from invad_jax.paradigms.paradigm import OutputsFn, Paradigm
from invad_jax.paradigms.restoring import mean_square, of_difference, restoring
from invad_jax.paradigms.walk import require

ALPHA = 1.2
"""Weight of the projected term, published with the distillation."""
ADVERSARIAL = 0.01
"""Weight of the adversarial terms."""
SMALLEST = 1e-5
"""Of what a generator's loss is divided by."""
STUDENT, TEACHER, FOLLOWER = "student", "teacher", "follower"


def paradigm(config: Config) -> Paradigm:
    """One evaluation, from one fixed draw of noise, compared by the squared change."""
    require(config, "inversion.paradigm=omiad", prediction="sample")
    t = asked_at(config)
    level = float(alpha_bar_of(config)[t])

    def path(
        outputs_fn: OutputsFn, x0: jax.Array, noise: jax.Array | None = None, **given: Any
    ) -> jax.Array:
        """`noise` (B or 1, h, w, C), standard normal."""
        if noise is None:
            noise = jax.random.normal(jax.random.key(0), (1, *x0.shape[1:]))
        start = perturb(x0, noise, jnp.full(x0.shape[:1], level))
        return jnp.stack([start, outputs_fn(start, jnp.array([t]), **given)["x0"]])

    return restoring(config, path, [t], frozenset({"x0"}), of_difference(mean_square))


def asked_at(config: Config) -> int:
    """The timestep at which the student is asked."""
    return (config.diffusion.num_timesteps - 1) // 2


def objective(config: Config, adversarial: bool) -> Objective:
    """The losses of the student and of the score that follows it, added up."""
    require(config, f"train.objective={config.train.objective}", prediction="sample")
    alpha_bar = jnp.asarray(alpha_bar_of(config), jnp.float32)
    at = asked_at(config)

    def draw(latent: jax.Array, rng: jax.Array) -> Drawn:
        of_t, of_noise, of_again = jax.random.split(rng, 3)
        return {
            "t": jax.random.randint(of_t, latent.shape[:1], 0, len(alpha_bar)),
            "noise": jax.random.normal(of_noise, latent.shape),
            "noise_again": jax.random.normal(of_again, latent.shape),
        }

    def loss(outputs_fn: OutputsFn, x0: jax.Array, drawn: Drawn) -> jax.Array:
        t = drawn["t"]
        start = perturb(x0, drawn["noise"], jnp.full(x0.shape[:1], alpha_bar[at]))
        made = outputs_fn(start, jnp.full(x0.shape[:1], at))["x0"]
        noised = perturb(made, drawn["noise_again"], alpha_bar[t])
        held = partial(outputs_fn, noised, t, held=True)
        follow = partial(outputs_fn, t=t, of=FOLLOWER, **judged)
        true, fake = held(of=TEACHER)["x0"], held(of=FOLLOWER, **judged)
        said = follow(jax.lax.stop_gradient(noised))
        losses = _mean(generator_loss(made, true, fake["x0"], ALPHA))
        losses += _mean(follower_loss(made, said["x0"]))
        if adversarial:
            real = follow(perturb(x0, drawn["noise_again"], alpha_bar[t]))["real"]
            losses += ADVERSARIAL * _mean(jax.nn.softplus(-fake["real"]))
            losses += ADVERSARIAL * _mean(jax.nn.softplus(-real) + jax.nn.softplus(said["real"]))
        return losses

    judged = {"judged": True} if adversarial else {}
    copies = (STUDENT, TEACHER, FOLLOWER)
    return Objective(draw, loss, says=(("x0", 0),), copies=copies, judges=adversarial)


def generator_loss(made: jax.Array, true: jax.Array, fake: jax.Array, alpha: float) -> jax.Array:
    """Of the student, shaped as its images (B, h, w, C): gradients go through all three.

    Args:
      made: by the student.
      true: what the teacher says of them, noised.
      fake: what the score that follows the student says of the same.
      alpha: weight of the projected term.
    """
    difference = true - fake
    size = jnp.mean(jnp.abs(made - true), axis=(1, 2, 3), keepdims=True)
    scale = jax.lax.stop_gradient(jnp.maximum(size, SMALLEST))
    return difference * ((true - made) - alpha * difference) / scale


def follower_loss(made: jax.Array, said: jax.Array) -> jax.Array:
    """Of the score that follows the student, shaped as its images, which it does not change."""
    return jnp.square(said - jax.lax.stop_gradient(made))


def _mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=(1, 2, 3))
