"""Exchanges denoiser parameters with the state dicts of the published PyTorch code.

`published_table.py` pairs the names, `published_sizes.py` reads the sizes; this file applies and
checks them. The published code is github.com/SkyShunsuke/InversionAD, whose `Denoiser` keeps the
network under `net.`. Its checkpoints also hold layers that the method never runs (`UNUSED`): they
are kept aside, so that a checkpoint survives the way here and back bit by bit.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from invad_jax.config import DenoiserConfig
from invad_jax.converters import check_latents, check_sizes
from invad_jax.converters.layouts import Link, to_ours, to_published
from invad_jax.converters.published_sizes import READERS, Tensors
from invad_jax.converters.published_table import UNUSED, links
from invad_jax.denoisers import build_denoiser
from invad_jax.errors import UserError
from invad_jax.io.tensor_reader import TensorReader

# Defaults of the published code, for what a checkpoint does not tell.
PUBLISHED_CLASSES = 15
PUBLISHED_Z_CHANNELS = 768


def denoiser_config_from_published(
    state_dict: Tensors, hints: Mapping[str, Any], source: str = "checkpoint"
) -> DenoiserConfig:
    """Reads the kind and every size of a denoiser from the shapes of its tensors.

    Args:
      state_dict: of the published code; a prefix `module.` is ignored.
      hints: `num_heads` (dit; default 8) and `head_channels` (unet; 64 at the published width of
        512, and to be given at any other), which no shape tells.
      source: the file, for messages.

    Raises:
      UserError: not a denoiser of the published code.
    """
    tensors = _without_module_prefix(state_dict)
    for key, reader in READERS.items():
        if key in tensors:
            with whole(source):
                cfg = reader(tensors, hints)
            check_sizes(source, cfg)
            return cfg
    raise UserError(
        f"{source}: no denoiser of the published code (expected one of {', '.join(READERS)})"
    )


def latent_shape_from_published(
    state_dict: Tensors, grid: int, source: str = "checkpoint"
) -> tuple[int, int, int]:
    """The (h, w, C) of the latents that a published denoiser is for.

    Args:
      state_dict: of a whole denoiser; a prefix `module.` is ignored.
      grid: h = w where no tensor tells it; the positions of a dit do.
      source: the file, for messages.

    Raises:
      UserError: the positions of a dit are not those of a square.
    """
    tensors = _without_module_prefix(state_dict)
    with whole(source):
        if "net.x_embedder.proj.weight" in tensors:
            _, channels, patch_size, _ = tensors["net.x_embedder.proj.weight"].shape
            _, tokens, _ = tensors["net.pos_embed"].shape
            if math.isqrt(tokens) ** 2 != tokens:
                raise ValueError(f"net.pos_embed has {tokens} positions, which make no square")
            grid = math.isqrt(tokens) * patch_size
        elif "net.input_proj.weight" in tensors:
            _, channels = tensors["net.input_proj.weight"].shape
        else:
            _, channels, _, _ = tensors["net.input_blocks.0.0.weight"].shape
    return grid, grid, channels


def params_from_published(
    state_dict: Tensors,
    cfg: DenoiserConfig,
    latent_shape: tuple[int, int, int],
    source: str = "checkpoint",
) -> dict[str, Any]:
    """Published tensors as parameters of `build_denoiser(cfg, latent_shape)`.

    Args:
      state_dict: of the published code; a prefix `module.` is ignored, and so is `UNUSED`.
      cfg: for example from `denoiser_config_from_published`.
      latent_shape: (h, w, C).
      source: the file, for messages.

    Returns:
      Nested dict of float32 arrays.

    Raises:
      UserError: names all missing, unexpected and misshapen tensors at once.
    """
    check_sizes(source, cfg)
    check_latents(source, cfg, latent_shape)
    reader = TensorReader(_without_module_prefix(state_dict))
    ours = _param_shapes(cfg, latent_shape)
    rows = list(links(cfg, ours))
    shapes = _published_shapes(rows, ours, cfg)
    found = [reader.take(link.key, shape=shapes[link.key]) for link in rows]
    unused = "|".join(re.escape(begin) + ".*" for begin in UNUSED[cfg.name])
    reader.finish(f"{source}: does not fit the denoiser: ", ignore=unused)
    layers: dict[str, list[np.ndarray]] = {}
    flat: dict[str, np.ndarray] = {}
    for link, tensor in zip(rows, found, strict=True):
        array = to_ours(np.asarray(tensor, np.float32), link.layout)
        if link.layer is None:
            flat[link.path] = np.ascontiguousarray(array)
        else:  # rows come in the order of the layers
            layers.setdefault(link.path, []).append(array)
    flat |= {path: np.stack(arrays) for path, arrays in layers.items()}
    return unflatten_dict(flat, sep="/")


def params_to_published(
    params: Mapping[str, Any], cfg: DenoiserConfig, unused: Tensors | None = None
) -> dict[str, np.ndarray]:
    """The exact inverse of `params_from_published`.

    Args:
      params: of the denoiser.
      cfg: its config.
      unused: what `unused_from_published` kept; without it those layers are zeros of the published
        code's default sizes, so that its strict loading accepts the result.
    """
    flat = flatten_dict(dict(params), sep="/")
    published = {}
    for link in links(cfg, flat):
        array = np.asarray(flat[link.path])
        array = array if link.layer is None else array[link.layer]
        published[link.key] = np.ascontiguousarray(to_published(array, link.layout, cfg))
    return published | dict(_blank_unused(cfg, flat) if unused is None else unused)


def unused_from_published(state_dict: Tensors, cfg: DenoiserConfig) -> dict[str, np.ndarray]:
    """The tensors of `UNUSED`, for `params_to_published`."""
    tensors = _without_module_prefix(state_dict)
    return {key: value for key, value in tensors.items() if key.startswith(UNUSED[cfg.name])}


def _param_shapes(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Path -> shape and type of our parameters, without computing any."""
    model = build_denoiser(cfg, latent_shape)
    x_t = jax.ShapeDtypeStruct((1, *latent_shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x_t, t)
    return flatten_dict(variables["params"], sep="/")


def _published_shapes(
    rows: list[Link], ours: Mapping[str, Any], cfg: DenoiserConfig
) -> dict[str, tuple[int, ...]]:
    """Published name -> shape that `to_published` would give."""
    shapes = {}
    for link in rows:
        struct = ours[link.path]
        if link.layer is not None:
            struct = jax.ShapeDtypeStruct(struct.shape[1:], struct.dtype)
        convert = functools.partial(to_published, layout=link.layout, cfg=cfg)
        shapes[link.key] = jax.eval_shape(convert, struct).shape
    return shapes


@contextmanager
def whole(source: str) -> Iterator[None]:
    """Makes one line of what goes wrong where sizes are read from misshapen tensors."""
    try:
        yield
    except KeyError as error:
        raise UserError(
            f"{source}: not a whole published denoiser: missing: {error.args[0]}"
        ) from None
    except (ValueError, TypeError, ArithmeticError) as error:  # a shape of another rank, or empty
        raise UserError(f"{source}: not a whole published denoiser: {error}") from None


def _without_module_prefix(state_dict: Tensors) -> dict[str, np.ndarray]:
    """`DistributedDataParallel` puts `module.` before every name."""
    return {key.removeprefix("module."): value for key, value in state_dict.items()}


def _blank_unused(cfg: DenoiserConfig, ours: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Zeros for the tensors of `UNUSED`, in the published code's default sizes."""
    width = cfg.width
    shapes: dict[str, tuple[int, ...]] = {"cls_embed.weight": (PUBLISHED_CLASSES, width)}
    if cfg.name == "dit":
        channels = ours["patch_embedding/kernel"].shape[0] // cfg.patch_size**2
        shapes["net.x_embedder_linear.weight"] = (width, channels)
        shapes["net.x_embedder_linear.bias"] = (width,)
        shapes["net.y_embedder.embedding_table.weight"] = (PUBLISHED_CLASSES, width)
    elif cfg.name == "mlp":
        shapes["net.cond_embed.weight"] = (width, PUBLISHED_Z_CHANNELS)
        shapes["net.cond_embed.bias"] = (width,)
    return {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
