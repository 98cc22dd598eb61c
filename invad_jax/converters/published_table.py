"""The table between the published PyTorch code's tensor names and our parameter paths.

Rows pair a layer with a layer; `links` expands them to tensors. Read next: `published.py`, which
applies the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers import unet

Layout = Literal["same", "linear", "pointwise", "unit_conv", "conv", "patch"]
"""How torch stores a weight: a vector; (out, in) with no, one or two unit axes behind; (out, in,
kh, kw); the same, over the p x p positions of a patch."""


class Link(NamedTuple):
    """One published tensor and its place among our parameters."""

    key: str
    path: str
    layout: Layout
    layer: int | None = None
    """Index on the leading axis of stacked blocks."""


UNUSED = {
    "dit": ("cls_embed.", "net.x_embedder_linear.", "net.y_embedder."),
    "dit_diffusers": (),
    "mlp": ("cls_embed.", "net.cond_embed."),
    "unet": ("cls_embed.",),
}
"""Beginnings of the names of layers that the unconditional method does not run."""


_Rows = tuple[tuple[str, str, Layout], ...]

_DIT: tuple[_Rows, str, _Rows] = (
    (
        ("x_embedder.proj", "patch_embedding", "patch"),
        ("t_embedder.mlp.0", "time_embedding/hidden", "linear"),
        ("t_embedder.mlp.2", "time_embedding/out", "linear"),
        ("final_layer.adaLN_modulation.1", "modulation/dense", "linear"),
        ("final_layer.linear", "out", "linear"),
    ),
    "blocks",
    (
        ("adaLN_modulation.1", "modulation/dense", "linear"),
        ("attn.qkv", "attention/qkv", "linear"),
        ("attn.proj", "attention/proj", "linear"),
        ("mlp.fc1", "mlp/hidden", "linear"),
        ("mlp.fc2", "mlp/out", "linear"),
    ),
)

_MLP: tuple[_Rows, str, _Rows] = (
    (
        ("input_proj", "embedding", "linear"),
        ("time_embed.mlp.0", "time_embedding/hidden", "linear"),
        ("time_embed.mlp.2", "time_embedding/out", "linear"),
        ("final_layer.adaLN_modulation.1", "modulation/dense", "linear"),
        ("final_layer.norm_final", "norm", "same"),
        ("final_layer.linear", "out", "linear"),
    ),
    "res_blocks",
    (
        ("adaLN_modulation.1", "modulation/dense", "linear"),
        ("in_ln", "norm", "same"),
        ("mlp.0", "hidden", "linear"),
        ("mlp.2", "out", "linear"),
    ),
)

_DIT_DIFFUSERS = (*_DIT[:2], (*_DIT[0][1:3], *_DIT[2]))
"""The names of a DiT, and a timestep embedding in each block."""

_UNET: _Rows = (
    ("time_embed.0", "time_embedding/hidden", "linear"),
    ("time_embed.2", "time_embedding/out", "linear"),
    ("input_blocks.0.0", "conv_in", "conv"),
    ("out.0", "norm_out", "same"),
    ("out.2", "conv_out", "conv"),
)

_UNET_LAYERS: dict[str, _Rows] = {
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


def links(cfg: DenoiserConfig, ours: Mapping[str, Any]) -> Iterator[Link]:
    """All the tensors that a network runs; `ours` has the paths of our parameters as keys."""
    if cfg.name == "unet":
        yield from _unet_links(cfg, ours)
        return
    if cfg.name == "dit":
        yield Link("net.pos_embed", "positions", "same")
    outer, blocks, inner = {"dit": _DIT, "dit_diffusers": _DIT_DIFFUSERS, "mlp": _MLP}[cfg.name]
    for theirs, path, layout in outer:
        yield from _layer(theirs, path, layout)
    for i in range(cfg.depth):
        for theirs, path, layout in inner:
            yield from _layer(f"{blocks}.{i}.{theirs}", f"blocks/{path}", layout, i)


def _unet_links(cfg: DenoiserConfig, ours: Mapping[str, Any]) -> Iterator[Link]:
    """Published blocks are numbered along the way, their layers within the block."""
    for theirs, path, layout in _UNET:
        yield from _layer(theirs, path, layout)
    down, up = unet.stages(cfg)
    middle = [(f"middle_{i}", kind) for i, s in enumerate(unet.middle_stages(cfg))
              for kind in s.layers]  # fmt: skip
    places = [(f"middle_block.{j}", path, kind) for j, (path, kind) in enumerate(middle)]
    for theirs, path, first, way in (
        ("input_blocks", "input", 1, down),
        ("output_blocks", "output", 0, up),
    ):
        for i, stage in enumerate(way, start=first):
            places += [
                (f"{theirs}.{i}.{j}", f"{path}_{i}", kind) for j, kind in enumerate(stage.layers)
            ]
    for theirs, path, kind in places:
        for their_end, our_end, layout in _UNET_LAYERS[kind.split("_")[0]]:
            our_layer = f"{path}_{kind}{our_end}"
            if our_end == "/skip" and f"{our_layer}/kernel" not in ours:
                continue  # the block keeps its number of channels
            yield from _layer(f"{theirs}{their_end}", our_layer, layout)


def _layer(theirs: str, ours: str, layout: Layout, layer: int | None = None) -> Iterator[Link]:
    """Weight and bias of one layer."""
    weight = "scale" if layout == "same" else "kernel"
    yield Link(f"net.{theirs}.weight", f"{ours}/{weight}", layout, layer)
    yield Link(f"net.{theirs}.bias", f"{ours}/bias", "same", layer)


def to_ours(tensor: np.ndarray, layout: Layout) -> np.ndarray:
    """Flax puts the output features last, torch first."""
    if layout in ("linear", "pointwise", "unit_conv"):
        return tensor.reshape(tensor.shape[:2]).T  # (out, in, ...) -> (in, out)
    if layout == "conv":
        return tensor.transpose(2, 3, 1, 0)  # (out, in, kh, kw) -> (kh, kw, in, out)
    if layout == "patch":
        return tensor.transpose(2, 3, 1, 0).reshape(-1, len(tensor))  # -> (p * p * in, out)
    return tensor


def to_published(array: Any, layout: Layout, cfg: DenoiserConfig) -> Any:
    """The inverse of `to_ours`, for NumPy and JAX arrays."""
    if layout == "linear":
        return array.T
    if layout == "pointwise":
        return array.T[:, :, None]
    if layout == "unit_conv":
        return array.T[:, :, None, None]
    if layout == "conv":
        return array.transpose(3, 2, 0, 1)
    if layout == "patch":
        p = cfg.patch_size
        return array.reshape(p, p, -1, array.shape[-1]).transpose(3, 2, 0, 1)
    return array
