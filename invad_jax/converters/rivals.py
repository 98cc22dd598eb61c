"""The published files of other diffusion detectors: DeCo-Diff, MAD-AD, TransFusion, DiAD.

Each holds a state dict, alone or beside what is left out here. All sizes are read from the tensors,
but for the heads of attention (known for the published widths) and the side of the grid, which a
convolutional network does not have. The workdir is evaluated by the detector's own paradigm, in the
latents as they are; `--set inversion.paradigm=inversion` inverts it instead. Read next:
`published_sizes.py`, `unet_table.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from invad_jax.config import (
    Config,
    DataConfig,
    DenoiserConfig,
    DiffusionConfig,
    InversionConfig,
    ScoringConfig,
    TrainConfig,
)
from invad_jax.converters import Converted, check_sizes
from invad_jax.converters.published import params_from_published, whole
from invad_jax.converters.published_sizes import Tensors, depth, unet_sizes
from invad_jax.errors import UserError
from invad_jax.io.tensors import read_tensors

Hints = Mapping[str, int]

LATENT_SIDE, IMAGE_SIDE = 32, 256
"""Of the published systems; their networks take other grids as well."""
HEADS = {64: 4, 128: 4, 192: 6, 256: 8, 320: 12}
"""Of DeCo-Diff's and MAD-AD's published sizes (XS, S, M, L, XL), by their width."""
HEADS_OF_SD = {320: 8}
"""Of Stable Diffusion 1, of which DiAD is made."""


class Rival(NamedTuple):
    """How the file of one detector is read."""

    prefixes: Mapping[str, str]
    """Beginnings of the names in the file -> of ours; what begins otherwise is left out."""
    sizes: Callable[[Tensors, Hints], DenoiserConfig]
    diffusion: DiffusionConfig
    inversion: InversionConfig
    side: int = LATENT_SIDE
    own_channels: int = 0
    """Of the input, beside those of the latents."""


_COSINE = DiffusionConfig(num_timesteps=10, schedule="cosine")
_STABLE_DIFFUSION = DiffusionConfig(schedule="scaled_linear", betas=(0.00085, 0.012))


def read_file(
    source: str, path: Path, hints: Hints, latent_size: int | None, text: Path | None
) -> Converted:
    """Reads and checks a checkpoint.

    Args:
      source: one of `RIVALS`.
      path: the file.
      hints: `num_heads` or `head_channels`, where the width is not a published one.
      latent_size: h = w of what is scored; None: the published one.
      text: of DiAD: a file with the vectors of its prompt, (M, E) or (1, M, E).

    Raises:
      UserError: missing, damaged, malicious, or of another network.
    """
    rival = RIVALS[source]
    tensors = _renamed(read_tensors(path), rival.prefixes)
    if source == "diad" and text is not None:
        tensors["net.text"] = _read_text(text)
    with whole(str(path)):
        cfg = rival.sizes(tensors, hints)
        channels = tensors[_FIRST[source]].shape[1] - rival.own_channels
    check_sizes(path, cfg)
    side = latent_size or rival.side
    shape = (side, side, channels)
    params = params_from_published(tensors, cfg, shape, str(path))
    config = Config(
        data=DataConfig(holdout_fraction=0.0),  # all normals were trained on
        denoiser=cfg,
        diffusion=rival.diffusion,
        train=TrainConfig(latent_stats="none"),
        inversion=rival.inversion,
        scoring=ScoringConfig(prior="standard_normal"),
    )
    return Converted(config, shape, params, params)


def _renamed(tensors: Tensors, prefixes: Mapping[str, str]) -> dict[str, np.ndarray]:
    """What lies under one of the prefixes, by its new name."""
    found = {}
    for key, value in tensors.items():
        for theirs, ours in prefixes.items():
            if key.startswith(theirs):
                found[ours + key.removeprefix(theirs)] = value
                break
    return found


def _read_text(path: Path) -> np.ndarray:
    """Vectors of a prompt, (1, M, E): the only tensor of a file, or the one called text."""
    tensors = read_tensors(path)
    text = tensors.get("text", next(iter(tensors.values()), np.zeros(0)))
    if len(tensors) > 1 and "text" not in tensors:
        raise UserError(f"--text {path}: holds several tensors, and none called text")
    if text.ndim not in (2, 3) or text.shape[:-2] not in ((), (1,)) or not text.size:
        raise UserError(f"--text {path}: is {text.shape}, expected (1, tokens, width)")
    return text.reshape(1, *text.shape[-2:])


def _heads(width: int, hints: Hints, published: Mapping[int, int]) -> int:
    heads = hints.get("num_heads", published.get(width))
    if heads is None:
        raise UserError(
            f"num_heads: no tensor tells it for a U-Net of width {width}; give --num-heads"
        )
    return heads


def _deco_diff(tensors: Tensors, hints: Hints) -> DenoiserConfig:
    """The channels of a head are the width over the number of heads, on every level."""
    sizes = unet_sizes(tensors, "proj_in")
    classes, context = tensors["net.cond_stage_model.embedding.weight"].shape
    head_channels = hints.get("head_channels")
    if head_channels is None:
        head_channels = sizes["width"] // max(1, _heads(sizes["width"], hints, HEADS))
    return DenoiserConfig(
        name="unet_deco_diff", head_channels=head_channels, context=(classes, context), **sizes
    )


def _fixed_heads(sizes: Mapping[str, Any], hints: Hints, published: Mapping[int, int]) -> int:
    """As many heads on every level, however many channels it has."""
    if "head_channels" in hints:
        raise UserError("--head-channels: this U-Net has as many heads on all levels; --num-heads")
    return _heads(sizes["width"], hints, published)


def _mad_ad(tensors: Tensors, hints: Hints) -> DenoiserConfig:
    sizes = unet_sizes(tensors, "qkv")
    heads = _fixed_heads(sizes, hints, HEADS)
    return DenoiserConfig(name="unet_mad_ad", num_heads=heads, **sizes)


def _diad(tensors: Tensors, hints: Hints) -> DenoiserConfig:
    sizes = unet_sizes(tensors, "proj_in")
    key = "net.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    tokens = tensors["net.text"].shape[1] if "net.text" in tensors else 0
    return DenoiserConfig(
        name="unet_diad",
        num_heads=_fixed_heads(sizes, hints, HEADS_OF_SD),
        context=(tokens, tensors[key].shape[1]),
        **sizes,
    )


def _transfusion(tensors: Tensors, hints: Hints) -> DenoiserConfig:
    """Walks down; a convolution closes a level."""
    if hints:
        raise UserError("--num-heads, --head-channels: TransFusion's attention has one head")
    width = len(tensors["net.image_proj.weight"])
    mults: list[int] = []
    attended: list[int] = []
    level = 0
    for i in range(depth(tensors, "down")):
        if f"net.down.{i}.conv.weight" in tensors:
            level += 1
            continue
        channels = len(tensors[f"net.down.{i}.res.conv1.weight"])
        if channels < width or channels % width:
            raise ValueError(f"down.{i} has {channels} channels, the first layer {width}")
        mults.append(channels // width)
        if f"net.down.{i}.attn.projection.weight" in tensors:
            attended.append(2**level)
    blocks = max(1, len(mults) // (level + 1))
    return DenoiserConfig(
        name="unet_transfusion",
        width=width,
        num_res_blocks=blocks,
        channel_mult=tuple(mults[::blocks]),
        attention_downsamplings=tuple(sorted(set(attended))),
    )


RIVALS: dict[str, Rival] = {
    "deco-diff": Rival(
        {"model.": "net."},
        _deco_diff,
        replace(_COSINE, prediction="deviation"),
        InversionConfig(paradigm="deco_diff", num_steps=5, use_ema=False),
    ),
    "mad-ad": Rival(
        {"model.": "net."},
        _mad_ad,
        replace(_COSINE, prediction="sample"),
        InversionConfig(paradigm="mad_ad", num_steps=10, use_ema=False),
    ),
    "transfusion": Rival(
        {"model.": "net.", "net_state_dict.model.": "net."},
        _transfusion,
        DiffusionConfig(num_timesteps=20),
        InversionConfig(paradigm="transfusion", num_steps=18, use_ema=False),
        side=IMAGE_SIDE,
        own_channels=2,
    ),
    "diad": Rival(
        {
            "state_dict.model.diffusion_model.": "net.",
            "state_dict.control_model.": "net.guide.",
        },
        _diad,
        _STABLE_DIFFUSION,
        InversionConfig(paradigm="diad", num_steps=10, use_ema=False),
    ),
}
_FIRST = dict.fromkeys(RIVALS, "net.input_blocks.0.0.weight") | {
    "transfusion": "net.image_proj.weight"
}
"""The first convolution, which tells the channels of the latents."""
