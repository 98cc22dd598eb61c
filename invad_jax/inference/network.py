"""What a network says, and where a paradigm walks with it: for figures, studies and parity."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import Config
from invad_jax.errors import UserError
from invad_jax.inference.assembly import abstract_params, build_network, denoise, exact, outputs
from invad_jax.paradigms import paradigm_of
from invad_jax.paradigms.classes import num_classes

Given = Mapping[str, Any]


def outputs_of(
    config: Config, params: Any, x_t: np.ndarray, t: int | np.ndarray, given: Given
) -> dict[str, np.ndarray]:
    """One evaluation of the network.

    Args:
      config: of the network.
      params: its parameters.
      x_t: (B, h, w, C) float32.
      t: timestep of all, (1,) or (B,).
      given: what else the network sees, by name.

    Returns:
      Its outputs by name.

    Raises:
      UserError: the network does not take what was given.
    """
    given = _checked(config, x_t.shape, given)
    t = np.broadcast_to(np.asarray(t, np.int32), len(x_t))
    return jax.device_get(_outputs(config, params, x_t, t, given))


def trajectory_of(config: Config, params: Any, x0: np.ndarray, given: Given) -> np.ndarray:
    """The states that the config's paradigm visits.

    Args:
      config: of the network and the paradigm.
      params: of the network.
      x0: (B, h, w, C) float32, as the network takes it.
      given: what else the network sees at every step, by name, and `noise` where a path takes it.

    Returns:
      (S + 1, B, h, w, C) float32, from the start on.

    Raises:
      UserError: the paradigm does not walk, or nobody takes what was given.
    """
    path = paradigm_of(config).path
    if path is None:
        raise UserError(f"inversion.paradigm={config.inversion.paradigm}: visits no states")
    takes = inspect.signature(path).parameters
    if not any(one.kind is one.VAR_KEYWORD for one in takes.values()):
        for name in (name for name, value in given.items() if value is not None):
            if name not in takes:
                raise UserError(
                    f"{name}: inversion.paradigm={config.inversion.paradigm} takes no such thing"
                )
    given = _checked(config, x0.shape, given, {"noise"} & takes.keys())
    return jax.device_get(_walk(config, params, x0, given))


@partial(jax.jit, static_argnums=0)  # compiled once for a config and its shapes
def _outputs(config: Config, params: Any, x_t: Any, t: Any, given: Given) -> dict[str, jax.Array]:
    return exact(config, outputs)(config, params, x_t, t, **given)


@partial(jax.jit, static_argnums=0)
def _walk(config: Config, params: Any, x0: jax.Array, given: Given) -> jax.Array:
    paradigm = paradigm_of(config)
    assert paradigm.path is not None  # it was asked before
    ask = partial(exact(config, outputs if paradigm.asks else denoise), config, params)
    return paradigm.path(ask, x0, **given)


def _checked(
    config: Config,
    shape: tuple[int, ...],
    given: Given,
    beside: set[str] | frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """What was given, if the network of latents of this shape takes it; None is nothing."""
    h, w, C = shape[1:]
    known = {*getattr(build_network(config, (h, w, C)), "SEES", ()), *beside}
    found = {name: value for name, value in given.items() if value is not None}
    for name in sorted(found.keys() - known):
        raise UserError(f"{name}: denoiser.name={config.denoiser.name} takes no such thing")
    if "label" in found:
        found["label"] = _labels(found["label"], shape[0], num_classes(config.denoiser))
    return {
        name: value if name == "label" else jnp.asarray(value, jnp.float32)
        for name, value in found.items()
    }


def _labels(label: Any, count: int, classes: int) -> np.ndarray:
    """(B,) int32; raises UserError for what no class has."""
    labels = np.asarray(label)
    if labels.shape not in ((), (1,), (count,)) or labels.dtype.kind not in "iu":
        raise UserError(f"label: expected {count} whole numbers, and not {labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"label: expected numbers of 0..{classes - 1}")
    return np.broadcast_to(labels, count).astype(np.int32)


@functools.cache
def _shapes(config: Config, latent_shape: tuple[int, int, int]) -> Any:
    """Of the parameters of a network for such latents."""
    return jax.tree.map(np.shape, abstract_params(config, latent_shape))


def check_latent(
    config: Config,
    latent_shape: tuple[int, int, int],
    params: Any,
    fixed: bool,
    shape: tuple[int, ...],
) -> None:
    """Raises UserError unless a network takes such latents.

    Args:
      config: of the network.
      latent_shape: that it was made for.
      params: its parameters.
      fixed: what was learnt beside them is of that grid alone.
      shape: of the latents.
    """
    if len(shape) == 4 and shape[1:] == latent_shape:
        return
    expected = f"expected (B, {', '.join(map(str, latent_shape))})"
    if len(shape) != 4 or shape[-1] != latent_shape[-1]:
        raise UserError(f"latents of shape {shape}: {expected}")
    theirs = _shapes(config, (shape[1], shape[2], shape[3]))
    fixed |= config.denoiser.name == "dit_diffusers"  # whose positions are no parameter
    if theirs != jax.tree.map(np.shape, params) or fixed:
        raise UserError(f"latents of shape {shape}: {expected}; this model's grid is fixed")
