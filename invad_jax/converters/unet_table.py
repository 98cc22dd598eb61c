"""The layers of U-Nets, theirs and ours: guided diffusion, latent diffusion, TransFusion.

Their blocks are numbered along the way, their layers within the block. Read next: `layouts.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from invad_jax.config import DenoiserConfig
from invad_jax.converters.layouts import Link, Rows, layer_links
from invad_jax.denoisers import unet, unet_ldm, unet_transfusion
from invad_jax.denoisers.unet import Stage

_OUTER: Rows = (
    ("time_embed.0", "time_embedding/hidden", "linear"),
    ("time_embed.2", "time_embedding/out", "linear"),
    ("input_blocks.0.0", "conv_in", "conv"),
    ("out.0", "norm_out", "same"),
    ("out.2", "conv_out", "conv"),
)
_LAYERS: dict[str, Rows] = {
    "res": (
        (".in_layers.0", "/norm_in", "same"),
        (".in_layers.2", "/conv_in", "conv"),
        (".emb_layers.1", "/time", "linear"),
        (".out_layers.0", "/norm_out", "same"),
        (".out_layers.3", "/conv_out", "conv"),
        (".skip_connection", "/skip", "unit_conv"),
    ),
    "attention": (
        (".norm", "/norm", "same"),
        (".qkv", "/qkv", "pointwise"),
        (".proj_out", "/proj", "pointwise"),
    ),
    "down": ((".op", "", "conv"),),
    "up": ((".conv", "", "conv"),),
}
_TRANSFORMER: Rows = (
    (".norm", "/norm", "same"),
    (".proj_in", "/proj_in", "unit_conv"),
    (".transformer_blocks.0.attn1.to_q", "/self_attention/q", "linear"),
    (".transformer_blocks.0.attn1.to_k", "/self_attention/k", "linear"),
    (".transformer_blocks.0.attn1.to_v", "/self_attention/v", "linear"),
    (".transformer_blocks.0.attn1.to_out.0", "/self_attention/out", "linear"),
    (".transformer_blocks.0.attn2.to_q", "/attention/q", "linear"),
    (".transformer_blocks.0.attn2.to_k", "/attention/k", "linear"),
    (".transformer_blocks.0.attn2.to_v", "/attention/v", "linear"),
    (".transformer_blocks.0.attn2.to_out.0", "/attention/out", "linear"),
    (".transformer_blocks.0.norm1", "/norm1", "same"),
    (".transformer_blocks.0.norm2", "/norm2", "same"),
    (".transformer_blocks.0.norm3", "/norm3", "same"),
    (".transformer_blocks.0.ff.net.0.proj", "/hidden", "linear"),
    (".transformer_blocks.0.ff.net.2", "/out", "linear"),
    (".proj_out", "/proj_out", "unit_conv"),
)
_OF_TRANSFORMERS = _LAYERS | {"attention": _TRANSFORMER}
_MASK_HEAD: Rows = (("mt_out.0", "norm_mask", "same"), ("mt_out.1", "conv_mask", "conv"))
_GUIDE: Rows = (
    *((f"input_hint_block.{2 * i}", f"hint_{i}", "conv") for i in range(len(unet_ldm.HINT) + 1)),
    *((f"zero_convs.{i}.0", f"zero_{i}", "unit_conv") for i in range(12)),
    ("middle_block_out.0", "zero_middle", "unit_conv"),
    *((f"down{i}{j}.0", f"fuse_{i}{j}", "conv") for i in (1, 2, 3) for j in (1, 2, 3)),
)
_TRANSFUSION_OUTER: Rows = (
    ("image_proj", "conv_in", "conv"),
    ("time_emb.linear_1", "time_embedding/hidden", "sines_first"),
    ("time_emb.linear_2", "time_embedding/out", "linear"),
    ("norm", "norm_noise", "same"),
    ("final", "conv_noise", "conv"),
    ("final_mean", "conv_mean", "conv"),
    ("final_seg.norm", "norm_mask", "same"),
    ("final_seg.conv", "conv_mask_logits", "conv"),
)
_TRANSFUSION_LAYERS: dict[str, Rows] = {
    "res": (
        (".norm1", "/norm_in", "same"),
        (".conv1", "/conv_in", "conv"),
        (".time_emb", "/time", "linear"),
        (".norm2", "/norm_out", "same"),
        (".conv2", "/conv_out", "conv"),
        (".shortcut", "/skip", "unit_conv"),
    ),
    "attention": ((".projection", "/qkv", "linear"), (".output", "/proj", "linear")),
    "down": ((".conv", "", "conv"),),
    "up": ((".conv", "", "up_conv"),),
}


def unet_links(cfg: DenoiserConfig, ours: Mapping[str, Any]) -> Iterator[Link]:
    """All the tensors that a U-Net runs.

    Args:
      cfg: of the network.
      ours: the paths of our parameters as keys; a layer without a bias, or a block without a skip,
        is one whose path is not there.
    """
    yield from (link for link in _all_links(cfg) if link.path in ours)


def _all_links(cfg: DenoiserConfig) -> Iterator[Link]:
    if cfg.name == "unet_transfusion":
        yield from _transfusion_links(cfg)
        return
    transformers = cfg.name in ("unet_deco_diff", "unet_diad")
    layers = _OF_TRANSFORMERS if transformers else _LAYERS
    yield from _ldm_links(cfg, layers)
    if cfg.name == "unet_deco_diff":
        yield Link("net.cond_stage_model.embedding.weight", "classes", "same")
    elif cfg.name == "unet_mad_ad":
        yield from _expanded(_MASK_HEAD)
    elif cfg.name == "unet_diad":
        yield Link("net.text", "text", "same")
        yield from _ldm_links(cfg, layers, "guide.", "guide/")
        yield from _expanded(_GUIDE, "guide.", "guide/")


def _ldm_links(
    cfg: DenoiserConfig, layers: Mapping[str, Rows], theirs: str = "", ours: str = ""
) -> Iterator[Link]:
    """Of a U-Net under prefixes of names."""
    yield from _expanded(_OUTER, theirs, ours)
    down, up = unet.stages(cfg)
    for place, path, first, way in (
        ("input_blocks.", "input_", 1, down),
        ("output_blocks.", "output_", 0, up),
    ):
        for i, stage in enumerate(way, start=first):
            for j, kind in enumerate(stage.layers):
                rows = layers[kind.split("_")[0]]
                yield from _expanded(rows, f"{theirs}{place}{i}.{j}", f"{ours}{path}{i}_{kind}")
    middle = [(i, kind) for i, s in enumerate(unet.middle_stages(cfg)) for kind in s.layers]
    for j, (i, kind) in enumerate(middle):
        yield from _expanded(layers[kind], f"{theirs}middle_block.{j}", f"{ours}middle_{i}_{kind}")


def _transfusion_links(cfg: DenoiserConfig) -> Iterator[Link]:
    yield from _expanded(_TRANSFUSION_OUTER)
    for name in ("mean", "var"):
        yield Link(f"net.final_seg.norm.running_{name}", f"norm_mask/{name}", "same")
    middle = ("middle.res1", "middle_0_res", "res"), ("middle.res2", "middle_1_res", "res")
    for theirs, path, kind in (*middle, ("middle.attn", "middle_0_attention", "attention")):
        yield from _expanded(_TRANSFUSION_LAYERS[kind], theirs, path)
    for way, stages in zip(("down", "up"), unet_transfusion.stages(cfg), strict=True):
        yield from _transfusion_way(way, stages)


def _transfusion_way(way: str, stages: Sequence[Stage]) -> Iterator[Link]:
    part = {"res": ".res", "attention": ".attn", "down": "", "up": ""}
    for i, stage in enumerate(stages):
        for kind in stage.layers:
            rows = _TRANSFUSION_LAYERS[kind]
            yield from _expanded(rows, f"{way}.{i}{part[kind]}", f"{way}_{i}_{kind}")


def _expanded(rows: Rows, theirs: str = "", ours: str = "") -> Iterator[Link]:
    for their_end, our_end, layout in rows:
        yield from layer_links(f"{theirs}{their_end}", f"{ours}{our_end}", layout)
