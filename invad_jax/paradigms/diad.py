"""DiAD (He et al., AAAI 2024): a latent is noised as far as it goes and denoised in a few steps,
while a second network shows the first what the image looked like. Trained here, the network is
shown the latent itself.

As published, the noise is that of the last timestep and the first evaluation at an earlier one. The
published guidance weighs two equal conditions against each other, which changes nothing: it is left
out. The noise is one fixed draw a position, so that no score depends on the place in a batch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import Config
from invad_jax.diffusion.inversion import euler_step
from invad_jax.diffusion.loss import eps_loss, perturb
from invad_jax.diffusion.schedule import Plan
from invad_jax.encoders import stage_channels
from invad_jax.errors import UserError
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.paradigms.objective import Drawn, Objective, drawing_noise
from invad_jax.paradigms.paradigm import OutputsFn, Paradigm
from invad_jax.paradigms.published_maps import unlike
from invad_jax.paradigms.restoring import restoring
from invad_jax.paradigms.walk import require, states_of


def paradigm(config: Config) -> Paradigm:
    """Guided reconstruction, compared by the angles between the features of each stage."""
    require(config, "inversion.paradigm=diad", prediction="eps")
    plan, last = _plan(config), float(alpha_bar_of(config)[-1])

    def path(
        outputs_fn: OutputsFn, x0: jax.Array, noise: jax.Array | None = None, **given: Any
    ) -> jax.Array:
        """`noise` (B or 1, h, w, C), standard normal."""
        if noise is None:
            noise = jax.random.normal(jax.random.key(0), (1, *x0.shape[1:]))
        if config.train.objective == "diad":
            given = {"image": x0, **given}

        def step(x: jax.Array, level: Plan) -> jax.Array:
            eps = outputs_fn(x, level.timesteps[None], **given)["eps"]
            return euler_step(x, eps, level.alpha_bar, level.alpha_bar_next)

        start = perturb(x0, noise, jnp.full(x0.shape[:1], last))
        return states_of(step, start, plan, lambda x: x)

    compare = partial(unlike_by_stage, config)
    return restoring(config, path, plan.timesteps, frozenset({"eps"}), compare, raw=True)


def unlike_by_stage(config: Config, x0: jax.Array, restored: jax.Array) -> jax.Array:
    """1 - cosine of the channels of each stage of the encoder, added up: (B, h, w, C) twice ->
    (B, h, w). Latents that are not the encoder's are one stage."""
    sizes = stage_channels(config.encoder, config.data.image_size, config.tiling)
    if sum(sizes) != x0.shape[-1]:  # of a converted network, whose encoder nobody has named
        sizes = (x0.shape[-1],)
    ends = np.cumsum(sizes)[:-1]
    pairs = zip(jnp.split(x0, ends, axis=-1), jnp.split(restored, ends, axis=-1), strict=True)
    return sum((unlike(a, b) for a, b in pairs), start=jnp.zeros(x0.shape[:3]))


def objective(config: Config) -> Objective:
    """The noise, told by a network that is shown x0 too: the loss of a diffusion."""
    require(config, "train.objective=diad", prediction="eps")
    alpha_bar = jnp.asarray(alpha_bar_of(config), jnp.float32)

    def loss(outputs_fn: OutputsFn, x0: jax.Array, drawn: Drawn) -> jax.Array:
        def eps_fn(x_t: jax.Array, t: jax.Array) -> jax.Array:
            return outputs_fn(x_t, t, image=x0)["eps"]

        return eps_loss(eps_fn, x0, drawn["t"], drawn["noise"], alpha_bar)

    draw = drawing_noise(len(alpha_bar))
    return Objective(draw, loss, says=(("eps", 0),), sees=(("image", 0),))


def _plan(config: Config) -> Plan:
    """Timesteps 1 above the multiples of T / S, falling; the last step leads to that of 0."""
    alpha_bar, steps = alpha_bar_of(config), config.inversion.num_steps
    if len(alpha_bar) % steps or steps == len(alpha_bar):
        raise UserError(f"inversion.num_steps={steps}: must divide the {len(alpha_bar)} timesteps")
    timesteps = np.arange(0, len(alpha_bar), len(alpha_bar) // steps) + 1
    levels = alpha_bar[timesteps].astype(np.float32)
    before = np.append(np.float32(alpha_bar[0]), levels[:-1])
    return Plan(timesteps[::-1].astype(np.int32), levels[::-1], before[::-1])
