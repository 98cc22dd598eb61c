"""The kind and every size of a published denoiser, from the shapes of its tensors.

Read next: `published.py`, which calls these readers and checks every tensor against the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers.layers import MLP_RATIO
from invad_jax.errors import UserError

Tensors = Mapping[str, np.ndarray]
"""A state dict: published name -> array."""

# Defaults of the published code, for what a checkpoint does not tell.
PUBLISHED_HEADS = 8
PUBLISHED_HEAD_CHANNELS = {512: 64}


def depth(tensors: Tensors, blocks: str) -> int:
    """Number of distinct i in `net.<blocks>.<i>.`."""
    return len({key.split(".")[2] for key in tensors if key.startswith(f"net.{blocks}.")})


def _dit_config(tensors: Tensors, hints: Mapping[str, Any]) -> DenoiserConfig:
    width, _, patch_size, _ = tensors["net.x_embedder.proj.weight"].shape
    hidden = len(tensors["net.blocks.0.mlp.fc1.weight"])
    if hidden != MLP_RATIO * width:
        raise ValueError(f"mlp_ratio is {hidden / width:g}, expected {MLP_RATIO}")
    return DenoiserConfig(
        name="dit",
        width=width,
        depth=depth(tensors, "blocks"),
        num_heads=hints.get("num_heads", PUBLISHED_HEADS),
        patch_size=patch_size,
    )


def _mlp_config(tensors: Tensors, hints: Mapping[str, Any]) -> DenoiserConfig:
    width, _ = tensors["net.input_proj.weight"].shape
    return DenoiserConfig(name="mlp", width=width, depth=depth(tensors, "res_blocks"))


def _unet_config(tensors: Tensors, hints: Mapping[str, Any]) -> DenoiserConfig:
    """The U-Net of guided diffusion."""
    sizes = unet_sizes(tensors, "qkv")
    width = sizes["width"]
    head_channels = hints.get("head_channels", PUBLISHED_HEAD_CHANNELS.get(width))
    if head_channels is None:
        raise UserError(
            f"head_channels: no tensor tells it for a U-Net of width {width}; give --head-channels"
        )
    channels = len(tensors["net.input_blocks.1.0.in_layers.2.bias"])
    scaled = len(tensors["net.input_blocks.1.0.emb_layers.1.bias"]) == 2 * channels
    return DenoiserConfig(
        name="unet",
        head_channels=head_channels,
        variants=(
            *(("resample_in_blocks",) if _halving_blocks(tensors) else ()),
            *(("time_scale",) if scaled else ()),
        ),
        **sizes,
    )


def unet_sizes(tensors: Tensors, attention: str) -> dict[str, Any]:
    """Walks down the input blocks; one that halves the grid closes a level.

    Args:
      tensors: of a U-Net, under `net.`.
      attention: a layer that only attention has.

    Returns:
      Options of `DenoiserConfig`: all sizes but the heads.
    """
    width, *_ = tensors["net.input_blocks.0.0.weight"].shape
    halving = _halving_blocks(tensors)
    mults: list[int] = []
    attended: list[int] = []
    level = 0
    for i in range(1, depth(tensors, "input_blocks")):
        if f"net.input_blocks.{i}.0.op.weight" in tensors or i in halving:
            level += 1
            continue
        channels = len(tensors[f"net.input_blocks.{i}.0.in_layers.2.weight"])
        if channels < width or channels % width:
            raise ValueError(f"input block {i} has {channels} channels, the first one {width}")
        mults.append(channels // width)
        if f"net.input_blocks.{i}.1.{attention}.weight" in tensors:
            attended.append(2**level)
    num_res_blocks = max(1, len(mults) // (level + 1))
    return {
        "width": width,
        "num_res_blocks": num_res_blocks,
        "channel_mult": tuple(mults[::num_res_blocks]),
        "attention_downsamplings": tuple(sorted(set(attended))),
    }


def _halving_blocks(tensors: Tensors) -> range:
    """The input blocks that halve the grid by a residual block, which looks like any other.

    The way up tells: there the last block of a level doubles the grid, by a second residual block.
    A level has one output block more than residual input blocks, so that the input blocks, with the
    first convolution and the halving ones, have the same period.
    """
    outputs, inputs = (depth(tensors, f"{way}_blocks") for way in ("output", "input"))
    for i in range(outputs):
        if any(f"net.output_blocks.{i}.{j}.in_layers.2.weight" in tensors for j in (1, 2)):
            return range(i + 1, inputs, i + 1)
    return range(0)


READERS = {
    "net.x_embedder.proj.weight": _dit_config,
    "net.input_blocks.0.0.weight": _unet_config,
    "net.input_proj.weight": _mlp_config,
}
"""A tensor that only one kind of network has -> the reader of its sizes."""
