"""From a config to the pure functions and the parameters of its detector.

Read next: `detector.py`, what they make together; `model.py`, where they are compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import Config
from invad_jax.denoisers import build_denoiser
from invad_jax.denoisers.copies import Copies
from invad_jax.denoisers.wide import Wide, channels_of
from invad_jax.detector import Detector
from invad_jax.diffusion.parameterization import OUTPUT_OF, to_eps
from invad_jax.errors import UserError
from invad_jax.paradigms import objective_of, paradigm_of
from invad_jax.paradigms.classes import inferred, num_classes
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.paradigms.retrieval import neighbourhood

Function = TypeVar("Function", bound=Callable[..., Any])


def build_detector(
    config: Config,
    latent_shape: tuple[int, int, int],
    encode: Callable[[Any, jax.Array], jax.Array],
    rounds_over: int | None = None,
    decode: Callable[[Any, jax.Array], jax.Array] | None = None,
) -> Detector:
    """The pure functions of a config, around an encoder's `apply`.

    Args:
      config: of the detector.
      latent_shape: (h, w, C).
      encode: the encoder.
      rounds_over: see `coordinates.Neighbourhood`.
      decode: the encoder's way back, where images are compared.

    Raises:
      UserError: the sizes of the denoiser do not fit the latents.
    """
    check_outputs(config, latent_shape)
    paradigm = paradigm_of(config)
    return Detector(
        encode=encode,
        denoise=exact(config, partial(outputs if paradigm.asks else denoise, config)),
        states=paradigm.states,
        compare=paradigm.compare,
        inverts=paradigm.inverts,
        whitened=paradigm.whitened,
        where=neighbourhood(config)._replace(rounds_over=rounds_over),
        image_size=config.data.image_size,
        label=inferred if paradigm.lessons.classes else None,
        raw=paradigm.raw,
        decode=decode and exact(config, decode),
    )


def for_scoring(config: Config, platform: str) -> Config:
    """The config with `denoiser.dtype` as it is where such devices score, if it is `auto`."""
    if config.denoiser.dtype != "auto":
        return config
    return in_precision(config, "float32" if platform == "cpu" else "bfloat16")


def in_precision(config: Config, dtype: Any) -> Config:
    """The config with activations of this type."""
    return dataclasses.replace(config, denoiser=dataclasses.replace(config.denoiser, dtype=dtype))


def exact(config: Config, function: Function) -> Function:
    """A function of scoring, its products in float32 where `denoiser.dtype` is: by default TPUs
    take bfloat16 for them and GPUs 10 bits, and scores would not be those of a CPU."""
    if config.denoiser.dtype != "float32":
        return function

    def precise(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return cast(Function, precise)


def denoise(config: Config, params: Any, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """The noise that the config's denoiser predicts, (B, h, w, C), on any grid that it takes."""
    prediction = config.diffusion.prediction
    output = outputs(config, params, x_t, t)[OUTPUT_OF[prediction]]
    alpha_bar = jnp.asarray(alpha_bar_of(config), jnp.float32)
    return to_eps(prediction, x_t, output, t, alpha_bar)


def outputs(
    config: Config, params: Any, x_t: jax.Array, t: jax.Array, **given: jax.Array
) -> dict[str, jax.Array]:
    """All that the config's network says of x_t, by name.

    Args:
      config: of the network.
      params: its parameters.
      x_t: (B, h, w, C).
      t: (B,) or (1,).
      **given: what else this network sees, such as `label` or `mask`.
    """
    _, h, w, C = x_t.shape
    network = build_network(config, (h, w, C))
    ask: Any = network.apply
    found = ask({"params": params}, x_t, t, **given)
    return found if isinstance(found, dict) else {OUTPUT_OF[config.diffusion.prediction]: found}


def build_network(config: Config, latent_shape: tuple[int, int, int]) -> nn.Module:
    """The network of a config, with the outputs and inputs that its objective needs."""
    objective = objective_of(config)
    if objective.copies:
        build = partial(build_denoiser, config.denoiser, latent_shape)
        return Copies(build, objective.copies, objective.judges)
    if len(objective.says) == 1 and not objective.sees:
        return build_denoiser(config.denoiser, latent_shape)
    h, w, C = latent_shape
    wide = channels_of(C, objective.says, objective.sees)
    core = build_denoiser(config.denoiser, (h, w, wide))
    if hasattr(core, "SAYS"):  # it was made for this
        return build_denoiser(config.denoiser, latent_shape)
    return Wide(core, objective.says, objective.sees)


def check_outputs(config: Config, latent_shape: tuple[int, int, int]) -> None:
    """Raises UserError for a network whose sizes do not fit, or that does not say what is asked."""
    network, paradigm = build_network(config, latent_shape), paradigm_of(config)
    its_own = OUTPUT_OF[config.diffusion.prediction]
    says = getattr(network, "SAYS", (its_own,))
    asked = paradigm.asks or ({its_own} if paradigm.nfe else frozenset())
    if missing := sorted(asked - set(says)):
        raise UserError(
            f"inversion.paradigm={config.inversion.paradigm}: asks for {', '.join(missing)}, and "
            f"denoiser.name={config.denoiser.name} says {', '.join(says)}"
        )
    _check_label(config, paradigm.shows, getattr(network, "SEES", ()))


def _check_label(config: Config, shows: frozenset[str], sees: tuple[str, ...]) -> None:
    if not shows <= set(sees):
        raise UserError(
            f"inversion.label={config.inversion.label}: this network takes no class; "
            "train.objective=deco_diff_class trains one that does"
        )
    label, classes = config.inversion.label, num_classes(config.denoiser)
    if shows and label.isdigit() and int(label) >= classes:
        raise UserError(f"inversion.label={label}: this network knows 0..{classes - 1}")


def init_params(config: Config, latent_shape: tuple[int, int, int], rng: jax.Array) -> Any:
    """Fresh parameters of the config's denoiser."""
    denoiser = build_network(config, latent_shape)
    x_t, t = np.zeros((1, *latent_shape), np.float32), np.zeros((1,), np.int32)
    return denoiser.init(rng, x_t, t)["params"]


def abstract_params(config: Config, latent_shape: tuple[int, int, int]) -> Any:
    """Shapes and types of `init_params`, without computing any."""
    return jax.eval_shape(partial(init_params, config, latent_shape), jax.random.key(0))
