"""`DiTTransformer2DModel` of diffusers, whose network is `denoisers/dit_diffusers.py`.

One class, or "no class", becomes part of the network: its embedding is added to the bias of each
block's timestep embedding, to which the library would add it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from invad_jax.config import DenoiserConfig
from invad_jax.converters import with_class
from invad_jax.converters.diffusers_options import Options, Renaming
from invad_jax.denoisers.dit import NUM_SINUSOIDS
from invad_jax.errors import UserError

NAMES = ("DiTTransformer2DModel", "Transformer2DModel")
"""The second is the first one's older name, which the first checkpoints have."""

SAME = {
    "activation_fn": "gelu-approximate",
    "caption_channels": None,
    "cross_attention_dim": None,
    "double_self_attention": False,
    "interpolation_scale": None,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
    "num_vector_embeds": None,
    "only_cross_attention": False,
}
"""Options under which it is that network."""

_OUTER = (
    ("pos_embed.proj", "x_embedder.proj"),
    ("proj_out_1", "final_layer.adaLN_modulation.1"),
    ("proj_out_2", "final_layer.linear"),
)
_BLOCK = (
    ("norm1.linear", "adaLN_modulation.1"),
    ("attn1.to_out.0", "attn.proj"),
    ("ff.net.0.proj", "mlp.fc1"),
    ("ff.net.2", "mlp.fc2"),
)
KINDS = ("weight", "bias")


def denoiser_config(options: Options) -> DenoiserConfig:
    """The same sizes.

    Raises:
      UserError: the architecture is another one.
    """
    options.require(SAME)
    heads = options.number("num_attention_heads", 16)
    return DenoiserConfig(
        name="dit_diffusers",
        width=heads * options.number("attention_head_dim", 72),
        depth=options.number("num_layers", 28),
        num_heads=heads,
        patch_size=options.number("patch_size", 2),
        norm_eps=options.real("norm_eps", 1e-5),
    )


def renamed(
    tensors: dict[str, np.ndarray],
    options: Options,
    cfg: DenoiserConfig,
    class_label: int | None,
    source: Path,
) -> dict[str, np.ndarray]:
    """The tensors under the names of DiT, each query, key and value joined.

    Args:
      tensors: as the library names them.
      options: of the model.
      cfg: from `denoiser_config`.
      class_label: whose embedding becomes part of the network; None takes "no class".
      source: the file, for messages.

    Raises:
      UserError: a tensor is missing, misshapen, or none of its layers.
    """
    names, width = Renaming(tensors, source), cfg.width
    classes = options.number("num_embeds_ada_norm", 1000)
    if class_label is not None and not 0 <= class_label < classes:
        raise UserError(f"--class-label {class_label}: {options.path} has classes 0..{classes - 1}")
    label = classes if class_label is None else class_label
    for theirs, dit in _OUTER:
        for kind in KINDS:
            names.put(f"net.{dit}.{kind}", names.take(f"{theirs}.{kind}"))
    for i in range(cfg.depth):
        block, ours = f"transformer_blocks.{i}.", f"net.blocks.{i}."
        for theirs, dit in _BLOCK:
            for kind in KINDS:
                names.put(f"{ours}{dit}.{kind}", names.take(f"{block}{theirs}.{kind}"))
        _join_attention(names, f"{block}attn1.", f"{ours}attn.qkv", cfg, options)
        embeddings = [f"{ours}t_embedder.mlp"]
        if i == 0:  # whose embedding the last layer uses too
            embeddings.append("net.t_embedder.mlp")
        table = names.take(
            f"{block}norm1.emb.class_embedder.embedding_table.weight", shape=(classes + 1, width)
        )
        for theirs, place, inputs in (("linear_1", 0, NUM_SINUSOIDS), ("linear_2", 2, width)):
            layer = f"{block}norm1.emb.timestep_embedder.{theirs}"
            weight = names.take(f"{layer}.weight", shape=(width, inputs))
            bias = names.take(f"{layer}.bias", shape=(width,))
            if place == 2 and bias is not None and table is not None:
                bias = with_class(bias, table, label)
            for embedding in embeddings:
                names.put(f"{embedding}.{place}.weight", weight)
                names.put(f"{embedding}.{place}.bias", bias)
    return _eps_half(names.renamed(), options, cfg, source)


def _join_attention(
    names: Renaming, theirs: str, ours: str, cfg: DenoiserConfig, options: Options
) -> None:
    """Query, key and value one after the other; without biases, biases of zero."""
    width, biased = cfg.width, options.choice("attention_bias", {True: True, False: False}, True)
    for kind, shape in (("weight", (width, width)), ("bias", (width,))):
        if kind == "bias" and not biased:
            names.put(f"{ours}.{kind}", np.zeros(3 * width, np.float32))
            continue
        parts = [names.take(f"{theirs}to_{part}.{kind}", shape=shape) for part in "qkv"]
        found = [part for part in parts if part is not None]
        names.put(f"{ours}.{kind}", np.concatenate(found) if len(found) == 3 else None)


def _eps_half(
    tensors: dict[str, np.ndarray], options: Options, cfg: DenoiserConfig, source: Path
) -> dict[str, np.ndarray]:
    """Without the output channels of a learned variance, the second half of each position."""
    channels, outputs = output_channels(options, 4)
    rows = cfg.patch_size**2
    for kind in KINDS:
        name = f"net.final_layer.linear.{kind}"
        tensor = tensors[name]
        if tensor.shape[:1] != (rows * outputs,):
            raise UserError(
                f"{source}: does not fit its config.json: proj_out_2.{kind} has "
                f"{tensor.shape[:1]} rows, expected {rows * outputs}"
            )
        parts = tensor.reshape(rows, outputs, *tensor.shape[1:])
        tensors[name] = parts[:, :channels].reshape(rows * channels, *tensor.shape[1:])
    return tensors


def output_channels(options: Options, default: int) -> tuple[int, int]:
    """Channels of the latents, and of the output: twice as many where a variance is learned.

    Raises:
      UserError: neither.
    """
    channels = options.number("in_channels", default)
    outputs = options.values.get("out_channels", default)
    outputs = channels if outputs is None else outputs
    if type(outputs) is not int or outputs not in (channels, 2 * channels):
        raise options.wrong("out_channels", f"expected {channels}, or twice that")
    return channels, outputs
