"""The table between the published PyTorch code's tensor names and our parameter paths.

Rows pair a layer with a layer; `links` expands them to tensors. Read next: `unet_table.py` for the
U-Nets, `published.py`, which applies the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invad_jax.config import DenoiserConfig
from invad_jax.converters.layouts import Link, Rows, layer_links
from invad_jax.converters.unet_table import unet_links

UNUSED = {
    "dit": ("cls_embed.", "net.x_embedder_linear.", "net.y_embedder."),
    "dit_diffusers": (),
    "mlp": ("cls_embed.", "net.cond_embed."),
    "unet": ("cls_embed.",),
    "unet_deco_diff": (),
    "unet_mad_ad": (),
    "unet_diad": (),
    "unet_transfusion": ("net.pos_emb.", "net.final_seg.norm.num_batches_tracked"),
}
"""Beginnings of the names of layers that the unconditional method does not run."""

_DIT: tuple[Rows, str, Rows] = (
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

_MLP: tuple[Rows, str, Rows] = (
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


def links(cfg: DenoiserConfig, ours: Mapping[str, Any]) -> Iterator[Link]:
    """All the tensors that a network runs; `ours` has the paths of our parameters as keys."""
    if cfg.name.startswith("unet"):
        yield from unet_links(cfg, ours)
        return
    if cfg.name == "dit":
        yield Link("net.pos_embed", "positions", "same")
    outer, blocks, inner = {"dit": _DIT, "dit_diffusers": _DIT_DIFFUSERS, "mlp": _MLP}[cfg.name]
    for theirs, path, layout in outer:
        yield from layer_links(theirs, path, layout)
    for i in range(cfg.depth):
        for theirs, path, layout in inner:
            yield from layer_links(f"{blocks}.{i}.{theirs}", f"blocks/{path}", layout, i)
