"""From a config to the pure functions and the parameters of its detector.

Read next: `detector.py`, what they make together; `model.py`, where they are compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import Config
from invad_jax.coordinates import Neighbourhood
from invad_jax.denoisers import build_denoiser
from invad_jax.detector import Detector
from invad_jax.diffusion.parameterization import to_eps
from invad_jax.paradigms import paradigm_of
from invad_jax.paradigms.levels import alpha_bar_of


def build_detector(
    config: Config,
    latent_shape: tuple[int, int, int],
    encode: Callable[[Any, jax.Array], jax.Array],
) -> Detector:
    """The pure functions of a config, around an encoder's `apply`.

    Raises:
      UserError: the sizes of the denoiser do not fit the latents.
    """
    build_denoiser(config.denoiser, latent_shape)
    paradigm = paradigm_of(config)
    return Detector(
        encode=encode,
        denoise=partial(denoise, config),
        states=paradigm.states,
        compare=paradigm.compare,
        inverts=paradigm.inverts,
        whitened=paradigm.whitened,
        where=Neighbourhood(config.whitening.radius, config.whitening.images),
        image_size=config.data.image_size,
    )


def denoise(config: Config, params: Any, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """The noise that the config's denoiser predicts, (B, h, w, C), on any grid that it takes."""
    output = network_output(config, params, x_t, t)
    alpha_bar = jnp.asarray(alpha_bar_of(config), jnp.float32)
    return to_eps(config.diffusion.prediction, x_t, output, t, alpha_bar)


def network_output(config: Config, params: Any, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """What the config's network says of x_t, (B, h, w, C): `diffusion.prediction`."""
    _, h, w, C = x_t.shape
    output: Any = build_denoiser(config.denoiser, (h, w, C)).apply({"params": params}, x_t, t)
    return output


def init_params(config: Config, latent_shape: tuple[int, int, int], rng: jax.Array) -> Any:
    """Fresh parameters of the config's denoiser."""
    denoiser = build_denoiser(config.denoiser, latent_shape)
    x_t, t = np.zeros((1, *latent_shape), np.float32), np.zeros((1,), np.int32)
    return denoiser.init(rng, x_t, t)["params"]


def abstract_params(config: Config, latent_shape: tuple[int, int, int]) -> Any:
    """Shapes and types of `init_params`, without computing any."""
    return jax.eval_shape(partial(init_params, config, latent_shape), jax.random.key(0))
