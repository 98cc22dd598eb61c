"""What a training step needs, from shapes alone: parameters, optimiser, one batch of activations.

Measured against what XLA allots on CPU for the DiTs and the U-Net of `configs/`, it is 20 % off at
most, in either direction.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from invad_jax.config import Config
from invad_jax.encoders import Encoder
from invad_jax.encoders.vae import AutoencoderKL
from invad_jax.runtime import memory
from invad_jax.training import denoiser, loop
from invad_jax.training.loop import Trained
from invad_jax.training.vae_loss import make_vae_loss

SMALL_PARAMETERS = 64e6
"""Bytes of the parameters of a network for which activations are not looked at ..."""
SMALL_ATTENTION = 2**20
"""... if a batch is so small, too: rows times positions squared."""
SMALL_IMAGES = 2**22
"""The same for a VAE: rows times pixels times channels."""
ADVICE = (
    "train.batch_size, data.image_size or the denoiser's sizes, or set train.grad_accumulation, "
    "denoiser.remat or mesh.fsdp"
)


def check_denoiser(config: Config, encoder: Encoder, mesh: Mesh) -> None:
    """Raises UserError if encoding a batch, or training on one, needs more memory than there is.

    Args:
      config: the experiment.
      encoder: may be only described.
      mesh: devices.
    """
    memory.require_for_images(config, mesh)
    h, w, C = encoder.latent_shape
    rows = _rows(config, mesh)
    what = f"train.batch_size={config.train.batch_size} on latents of {h} x {w} x {C}"
    # Before anything is traced: tracing makes the positions.
    floor = 4 * h * w * (rows * C + config.denoiser.width)
    memory.require(what, {"a batch": floor}, ADVICE)
    trained = denoiser.trained(config, encoder.latent_shape)
    batch = denoiser.batch_shapes(config, rows, encoder.latent_shape)
    small = rows * (h * w) ** 2 <= SMALL_ATTENTION
    check_step(what, trained, batch, mesh, small)


def check_vae(config: Config, perceptual: Encoder | None, mesh: Mesh) -> None:
    """The same for a VAE, with the encoder of its perceptual term if it has one."""
    memory.require_for_images(config, mesh)
    rows, size = _rows(config, mesh), config.data.image_size
    what = f"train.batch_size={config.train.batch_size} on images of {size} x {size}"
    memory.require(what, {"a batch": rows * size**2 * memory.BYTES_A_PIXEL}, ADVICE)
    batch = {"image": jax.ShapeDtypeStruct((rows, size, size, 3), np.uint8)}
    image = np.zeros((1, size, size, 3), np.float32)
    trained = Trained(
        config.train,
        lambda rng: AutoencoderKL(config.vae).init(rng, image)["params"],
        perceptual.variables if perceptual else {},
        make_vae_loss(config.vae, config.vae_loss, perceptual.features if perceptual else None),
    )
    small = rows * size**2 * config.vae.width <= SMALL_IMAGES
    check_step(what, trained, batch, mesh, small)


def check_step(what: str, trained: Trained, batch: Any, mesh: Mesh, small: bool) -> None:
    """Raises UserError if a step needs more memory than a device has.

    Args:
      what: names the step in the message.
      trained: whose step.
      batch: shapes and types of the rows that a device takes at once.
      mesh: devices.
      small: the batch needs no look if the network is small, too.
    """
    state = loop.programs(trained, mesh).abstract
    parts = {
        "parameters, average and optimiser": _device_bytes(state),
        "gradients": _device_bytes(state.params),
    }
    memory.require(what, parts, ADVICE)
    if not (small and _bytes(state.params) <= SMALL_PARAMETERS):
        kept = residuals(trained, state.params, batch)
        parts["activations"] = _bytes(kept) - _elsewhere(kept, state.params)
        memory.require(what, parts, ADVICE)


def residuals(trained: Trained, params: Any, batch: Any) -> Any:
    """What the loss of a batch keeps for its gradient, parameters among it: shapes and types."""
    loss_fn = trained.loss_fn

    def pullback(params: Any, frozen: Any, drawn: Any) -> Any:
        return jax.vjp(lambda p: loss_fn.given(p, frozen, drawn), params, has_aux=True)[1]

    drawn = jax.eval_shape(loss_fn.draw, batch, jax.random.key(0))
    return jax.eval_shape(pullback, params, trained.frozen, drawn)


def _elsewhere(kept: Any, params: Any) -> int:
    """Bytes of the parameters among it that other devices keep: they are told by their shapes."""
    shapes = Counter((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(kept))
    there = 0
    for leaf in jax.tree.leaves(params):
        if shapes[leaf.shape, leaf.dtype]:
            shapes[leaf.shape, leaf.dtype] -= 1
            there += _size(leaf, leaf.shape) - _device_bytes(leaf)
    return there


def _rows(config: Config, mesh: Mesh) -> int:
    """Of a batch, on one device at once."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"] * config.train.grad_accumulation
    return -(-config.train.batch_size // ways)


def _bytes(tree: Any) -> int:
    return sum(_size(leaf, leaf.shape) for leaf in jax.tree.leaves(tree))


def _device_bytes(tree: Any) -> int:
    return sum(_size(leaf, leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _size(leaf: Any, shape: tuple[int, ...]) -> int:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 0
    return int(np.prod(shape, dtype=object)) * leaf.dtype.itemsize
