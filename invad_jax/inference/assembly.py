"""From a config to the pure functions and the parameters of its detector.

Read next: `detector.py`, what they make together; `model.py`, where they are compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import Config
from invad_jax.denoisers import build_denoiser
from invad_jax.detector import Detector
from invad_jax.diffusion.parameterization import to_eps
from invad_jax.diffusion.reconstruction import reconstruction_plan
from invad_jax.diffusion.schedule import alpha_bar_schedule, make_plan, spaced_timesteps
from invad_jax.encoders import Encoder
from invad_jax.normality import reference


def alpha_bar_of(config: Config) -> np.ndarray:
    """The noise schedule of a config, (T,) float64."""
    diffusion = config.diffusion
    return alpha_bar_schedule(
        diffusion.schedule, diffusion.num_timesteps, diffusion.beta_start, diffusion.beta_end,
        diffusion.betas, diffusion.zero_terminal_snr,
    )  # fmt: skip


def build_detector(config: Config, encoder: Encoder) -> Detector:
    """The pure functions of a config."""
    return make_detector(config, encoder.latent_shape, encoder.apply)


def make_detector(
    config: Config,
    latent_shape: tuple[int, int, int],
    encode: Callable[[Any, jax.Array], jax.Array],
) -> Detector:
    """The pure functions of a config around any encoder."""
    inversion = config.inversion
    timesteps = spaced_timesteps(
        inversion.spacing, inversion.num_steps, config.diffusion.num_timesteps
    )
    build_denoiser(config.denoiser, latent_shape)  # sizes that do not fit are said at once
    detector = Detector(
        encode=encode,
        denoise=partial(denoise, config),
        plan=make_plan(alpha_bar_of(config), timesteps, inversion.final_alpha_bar),
        image_size=config.data.image_size,
        states=reference.states(config),
    )
    if inversion.paradigm != "reconstruction":
        return detector
    return dataclasses.replace(
        detector,
        plan=reconstruction_plan(alpha_bar_of(config), timesteps, inversion.noise_ratio),
        noise=jax.random.normal(jax.random.key(0), (1, *latent_shape)),
    )


def denoise(config: Config, params: Any, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """The noise that the config's denoiser predicts, (B, h, w, C), on any grid that it takes."""
    _, h, w, C = x_t.shape
    output: Any = build_denoiser(config.denoiser, (h, w, C)).apply({"params": params}, x_t, t)
    alpha_bar = jnp.asarray(alpha_bar_of(config), jnp.float32)
    return to_eps(config.diffusion.prediction, x_t, output, t, alpha_bar)


def init_params(config: Config, latent_shape: tuple[int, int, int], rng: jax.Array) -> Any:
    """Fresh parameters of the config's denoiser."""
    denoiser = build_denoiser(config.denoiser, latent_shape)
    x_t, t = np.zeros((1, *latent_shape), np.float32), np.zeros((1,), np.int32)
    return denoiser.init(rng, x_t, t)["params"]


def abstract_params(config: Config, latent_shape: tuple[int, int, int]) -> Any:
    """Shapes and types of `init_params`, without computing any."""
    return jax.eval_shape(partial(init_params, config, latent_shape), jax.random.key(0))
