"""`UNet2DModel` of diffusers: the U-Net of guided diffusion, or of Ho et al., under other names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from invad_jax.config import DenoiserConfig
from invad_jax.config.networks import Variant
from invad_jax.converters import chosen_class, with_class
from invad_jax.converters.diffusers_dit import KINDS, output_channels
from invad_jax.converters.diffusers_options import Options, Renaming
from invad_jax.denoisers import unet
from invad_jax.errors import UserError

NAMES = ("UNet2DModel",)

SAME = {
    "act_fn": "silu",
    "class_embed_type": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "time_embedding_type": "positional",
}
"""Options that have one value here, the library's default."""
YES_OR_NO = {True: True, False: False}

_RES = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_OUTER = (("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"))


# --- its options


def denoiser_config(options: Options) -> DenoiserConfig:
    """The same sizes.

    Raises:
      UserError: the architecture is another one.
    """
    options.require(SAME)
    widths = options.items("block_out_channels", int, [224, 448, 672, 896])
    groups = options.number("norm_num_groups", 32)
    if any(w < 1 or w % widths[0] or w % groups for w in widths):
        raise options.wrong(
            "block_out_channels", f"expected multiples of the first and of {groups} groups"
        )
    width = widths[0]
    if options.values.get("time_embedding_dim") not in (None, 4 * width):
        raise options.wrong("time_embedding_dim", f"expected {4 * width}")
    scale_shift = options.choice(
        "resnet_time_scale_shift", {"default": False, "scale_shift": True}, "default"
    )
    middle_attention = options.choice("add_attention", YES_OR_NO, True)
    _check_middle_norm(options, groups, middle_attention and scale_shift)
    variants: dict[Variant, bool] = {
        **_resampling(options),
        "time_scale": scale_shift,
        "shifted_frequencies": options.choice("freq_shift", {0: False, 1: True}, 0),
        "no_middle_attention": not middle_attention,
        "centred_input": options.choice("center_input_sample", YES_OR_NO, False),
    }
    attended = _attended(options, len(widths), within=variants["resample_in_blocks"])
    head_channels = options.values.get("attention_head_dim", 8)
    return DenoiserConfig(
        name="unet",
        width=width,
        num_res_blocks=options.number("layers_per_block", 2),
        channel_mult=tuple(w // width for w in widths),
        attention_downsamplings=tuple(2**level for level, yes in enumerate(attended) if yes),
        head_channels=0 if head_channels is None else options.number("attention_head_dim", 8),
        norm_groups=groups,
        norm_eps=options.real("norm_eps", 1e-5),
        variants=tuple(name for name, yes in variants.items() if yes),
    )


def _check_middle_norm(options: Options, groups: int, none_by_default: bool) -> None:
    """The attention in the middle is normalised, in as many groups as the others."""
    said = options.values.get("attn_norm_num_groups")
    if said not in (None, groups) or (said is None and none_by_default):
        raise options.wrong(
            "attn_norm_num_groups", f"expected {groups}, the groups of the other norms"
        )


def _resampling(options: Options) -> dict[Variant, bool]:
    kinds = [
        options.choice(f"{way}sample_type", {"conv": "conv", "resnet": "res"}, "conv")
        for way in ("down", "up")
    ]
    if kinds[0] != kinds[1]:
        raise options.wrong("upsample_type", "expected that of downsample_type")
    within = kinds[0] == "res"
    at_end = not within and options.choice("downsample_padding", {1: False, 0: True}, 1)
    return {"resample_in_blocks": within, "pad_at_end": at_end}


def _attended(options: Options, num_levels: int, within: bool) -> list[bool]:
    """Whether each level has attention, from the finest on."""
    attended = []
    for way in ("Down", "Up"):
        option = f"{way.lower()}_block_types"
        kinds = options.items(option, str)
        if len(kinds) != num_levels:
            raise options.wrong(option, f"expected {num_levels}, one a level")
        plain, attends = f"{way}Block2D", f"Attn{way}Block2D"
        resampling = f"Resnet{way}sampleBlock2D" if within else plain
        for place, kind in enumerate(kinds):
            # The coarsest level on the way down, the finest one on the way up, keep their grid.
            last = place == num_levels - 1
            expected = {resampling, attends} | ({plain} if last else set())
            if kind not in expected:
                raise options.wrong(option, f"{kind}: expected {' or '.join(sorted(expected))}")
        attended.append([kind == attends for kind in kinds])
    if attended[0] != attended[1][::-1]:
        raise options.wrong("up_block_types", "expected the mirror image of down_block_types")
    return attended[0]


# --- its tensors


def renamed(
    tensors: dict[str, np.ndarray],
    options: Options,
    cfg: DenoiserConfig,
    class_label: int | None,
    source: Path,
) -> dict[str, np.ndarray]:
    """The tensors under the names of guided diffusion, each query, key and value joined.

    Args:
      tensors: as the library names them, in either of its generations of names for attention.
      options: of the model.
      cfg: from `denoiser_config`.
      class_label: whose embedding becomes part of the network, if it has classes.
      source: the file, for messages.

    Raises:
      UserError: a tensor is missing, misshapen, or none of its layers.
    """
    names = Renaming(tensors, source)
    _time_embedding(names, options, cfg, class_label)
    channels, outputs = output_channels(options, 3)
    for theirs, guided in _layers(cfg):
        if theirs.endswith(".conv_shortcut") and not names.has(f"{theirs}.weight"):
            continue  # the block keeps its number of channels
        for kind in KINDS:
            if theirs.endswith(".to_q"):
                _join_attention(names, theirs.removesuffix("to_q"), guided, kind, cfg)
                continue
            old = theirs.replace("to_out.0", "proj_attn")
            tensor = names.take(f"{theirs}.{kind}", f"{old}.{kind}")
            if tensor is not None and theirs.endswith(".to_out.0") and kind == "weight":
                tensor = tensor.reshape((*tensor.shape, 1)[:3])
            if tensor is not None and theirs == "conv_out" and tensor.shape[:1] == (outputs,):
                tensor = tensor[:channels]  # without a learned variance
            names.put(f"net.{guided}.{kind}", tensor)
    return names.renamed()


def _time_embedding(
    names: Renaming, options: Options, cfg: DenoiserConfig, class_label: int | None
) -> None:
    """Cosines first, and the embedding of a class added where the library would add it."""
    width, classes = cfg.width, options.values.get("num_class_embeds")
    if classes is None and class_label is not None:
        raise UserError(f"--class-label {class_label}: {options.path} has no classes")
    cosines_first = options.choice("flip_sin_to_cos", YES_OR_NO, True)
    for theirs, place, inputs in (("linear_1", 0, width), ("linear_2", 2, 4 * width)):
        layer = f"time_embedding.{theirs}"
        weight = names.take(f"{layer}.weight", shape=(4 * width, inputs))
        bias = names.take(f"{layer}.bias", shape=(4 * width,))
        if place == 0 and weight is not None and not cosines_first:
            weight = np.roll(weight, width // 2, axis=1)
        if place == 2 and classes is not None:
            classes = options.number("num_class_embeds")
            label = chosen_class(
                f"{options.path}: num_class_embeds={classes}", classes, class_label
            )
            table = names.take("class_embedding.weight", shape=(classes, 4 * width))
            if table is not None and bias is not None:
                bias = with_class(bias, table, label)
        names.put(f"net.time_embed.{place}.weight", weight)
        names.put(f"net.time_embed.{place}.bias", bias)


def _join_attention(
    names: Renaming, theirs: str, guided: str, kind: str, cfg: DenoiserConfig
) -> None:
    """Query, key and value as guided diffusion has them: one after the other within each head."""
    pairs = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"))
    found = [names.take(f"{theirs}{new}.{kind}", f"{theirs}{old}.{kind}") for new, old in pairs]
    parts = [part.reshape(part.shape[:2]) for part in found if part is not None]
    if len(parts) < 3:
        return
    shape = parts[0].shape or (0,)
    rows, columns = shape[0], shape[1:]
    heads = rows // cfg.head_channels if cfg.head_channels else 1
    if len({part.shape for part in parts}) != 1 or not rows or rows % heads or not heads:
        raise UserError(f"{names.source}: {theirs}to_q.{kind}: query, key and value do not fit")
    joined = np.stack([part.reshape(heads, -1, *columns) for part in parts], axis=1)
    joined = joined.reshape(-1, *columns)  # (heads * 3 * head_channels, ...)
    names.put(f"net.{guided}.{kind}", joined[:, :, None] if kind == "weight" else joined)


def _layers(cfg: DenoiserConfig) -> Iterator[tuple[str, str]]:
    """(name here in diffusers, name in guided diffusion) of every layer."""
    yield from _OUTER
    yield from _expanded("mid_block.resnets.0", "middle_block.0", "res")
    plain = "no_middle_attention" in cfg.variants
    if not plain:
        yield from _expanded("mid_block.attentions.0", "middle_block.1", "attention")
    last = 1 if plain else 2
    yield from _expanded("mid_block.resnets.1", f"middle_block.{last}", "res")
    down, up = unet.stages(cfg)
    for theirs, guided, first, way in (
        ("down_blocks", "input_blocks", 1, down),
        ("up_blocks", "output_blocks", 0, up),
    ):
        for i, stage in enumerate(way):
            level, place = divmod(i, cfg.num_res_blocks + 1)
            for j, kind in enumerate(stage.layers):
                name = {
                    "res": f"resnets.{place}",
                    "attention": f"attentions.{place}",
                    "down": "downsamplers.0",
                    "up": "upsamplers.0",
                }[kind.removeprefix("res_")]
                yield from _expanded(f"{theirs}.{level}.{name}", f"{guided}.{i + first}.{j}", kind)


def _expanded(theirs: str, guided: str, kind: str) -> Iterator[tuple[str, str]]:
    pairs: tuple[tuple[str, str], ...]
    if kind.startswith("res"):
        pairs = _RES
    elif kind == "attention":
        pairs = (("group_norm", "norm"), ("to_q", "qkv"), ("to_out.0", "proj_out"))
    else:
        pairs = (("conv", "op" if kind == "down" else "conv"),)
    yield from ((f"{theirs}.{a}", f"{guided}.{b}") for a, b in pairs)
