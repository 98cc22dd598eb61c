"""Vision transformers of DINO, DINOv2 and DINOv3 (Caron et al. 2021, Oquab et al. 2023, Siméoni et
al. 2025).

One network for all: DINOv2 adds a learned scale to each residual branch, and its later weights four
register tokens (Darcet et al. 2023), which are dropped from the output. Position embeddings are
resampled once, when the weights are loaded, to the grid of the images; DINOv3 has none and rotates
queries and keys instead.

Read next: `feature_stack.py` for how several layers become one latent.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import EncoderConfig
from invad_jax.encoders.backbone import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    Variables,
    resolve_stages,
)
from invad_jax.encoders.torch_names import dotted, mirrored_params
from invad_jax.errors import UserError
from invad_jax.io.tensor_reader import TensorReader


@dataclass(frozen=True)
class ViTConfig:
    """Sizes, and how positions are resampled; the defaults are those of DINO's ViT-S/16."""

    width: int = 384
    depth: int = 12
    patch_size: int = 16
    """Side of a patch in pixels."""
    head_channels: int = 64
    mlp_ratio: int = 4
    num_registers: int = 0
    layer_scale: bool = False
    """Whether each residual branch is multiplied by a learned vector."""
    position_offset: float = 0.1
    """Positions are resampled at steps of native / (grid + offset): the authors' guard against
    rounding, which shifts them a little. 0 is what `transformers` does."""
    position_antialias: bool = False
    """Whether the resampling kernel widens when the grid shrinks."""
    rotary: bool = False
    """Whether attention rotates queries and keys by their positions, in place of embeddings."""
    norm_epsilon: float = 1e-6


def _variants() -> dict[str, ViTConfig]:
    sizes = {"s": (384, 12), "b": (768, 12), "l": (1024, 24)}
    registers: dict[str, Any] = {
        "num_registers": 4,
        "position_offset": 0.0,
        "position_antialias": True,
    }
    variants = {}
    for size in "sb":
        for patch_size in (8, 16):
            variants[f"dino_vit{size}{patch_size}"] = ViTConfig(*sizes[size], patch_size)
    for size in "sbl":
        dinov2 = ViTConfig(*sizes[size], patch_size=14, layer_scale=True)
        variants[f"dinov2_vit{size}14"] = dinov2
        variants[f"dinov2_vit{size}14_reg"] = dataclasses.replace(dinov2, **registers)
        variants[f"dinov3_vit{size}16"] = ViTConfig(
            *sizes[size], num_registers=4, layer_scale=True, rotary=True, norm_epsilon=1e-5
        )
    return variants


VARIANTS = _variants()
"""Each with the resampling of its authors' code."""


def _norm(config: ViTConfig, name: str) -> nn.LayerNorm:
    # The fast variance E[x^2] - E[x]^2 cancels on the outlier tokens of DINOv2.
    return nn.LayerNorm(epsilon=config.norm_epsilon, use_fast_variance=False, name=name)


class Attention(nn.Module):
    """Self-attention of several heads."""

    config: ViTConfig

    @nn.compact
    def __call__(self, x: jax.Array, angles: np.ndarray) -> jax.Array:
        c = self.config
        B, N, D = x.shape
        qkv = nn.Dense(3 * D, name="qkv")(x)  # (B, N, 3 D)
        qkv = qkv.reshape(B, N, 3, D // c.head_channels, c.head_channels)
        q, k, v = jnp.moveaxis(qkv, 2, 0)  # (B, N, heads, head_channels) each
        if c.rotary:
            q, k = _rotated(q, angles), _rotated(k, angles)
        x = jax.nn.dot_product_attention(q, k, v)  # (B, N, heads, head_channels)
        return nn.Dense(D, name="proj")(x.reshape(B, N, D))


def rotary_angles(config: ViTConfig, grid: tuple[int, int]) -> np.ndarray:
    """Angles by which DINOv3 rotates pairs of channels, (N, head_channels).

    The frequencies are 100^(-4 i / head_channels), once for the row and once for the column, which
    run from -1 to 1 over any image. Class and register tokens are not rotated.
    """
    frequencies = 100.0 ** -np.arange(0, 1, 4 / config.head_channels)
    rows, columns = (2 * (np.arange(n) + 0.5) / n - 1 for n in grid)
    centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)  # (h, w, 2)
    angles = 2 * np.pi * centres[..., None] * frequencies  # (h, w, 2, head_channels / 4)
    angles = np.tile(angles.reshape(grid[0] * grid[1], -1), 2)  # (h w, head_channels)
    return np.pad(angles, ((1 + config.num_registers, 0), (0, 0))).astype(np.float32)


def _rotated(x: jax.Array, angles: np.ndarray) -> jax.Array:
    """Rotates channel i against channel i + half, (B, N, heads, head_channels)."""
    cos, sin = np.cos(angles)[None, :, None], np.sin(angles)[None, :, None]
    first, second = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate([-second, first], axis=-1) * sin


class LayerScale(nn.Module):
    """A learned factor per channel."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.param("gamma", nn.initializers.ones, x.shape[-1:])[None, None]


class Block(nn.Module):
    """Attention and a feed-forward network, each normalised before and added to its input."""

    config: ViTConfig

    @nn.compact
    def __call__(self, x: jax.Array, angles: np.ndarray) -> jax.Array:
        c = self.config
        h = Attention(c, name="attn")(_norm(c, "norm1")(x), angles)
        x = x + (LayerScale(name="ls1")(h) if c.layer_scale else h)
        h = nn.Dense(c.mlp_ratio * c.width, name="fc1")(_norm(c, "norm2")(x))
        h = nn.Dense(c.width, name="fc2")(nn.gelu(h, approximate=False))
        return x + (LayerScale(name="ls2")(h) if c.layer_scale else h)


class ViT(nn.Module):
    """Image to the normalised patch tokens after some of its layers."""

    config: ViTConfig
    layers: tuple[int, ...]
    """Rising indices of the blocks that are returned; the last of them ends the network."""

    @nn.compact
    def __call__(self, image: jax.Array) -> list[jax.Array]:
        """(B, H, W, 3) normalised, sides multiples of the patch -> (B, h, w, width) per layer."""
        c = self.config
        init = nn.initializers.normal(0.02)
        patch = (c.patch_size, c.patch_size)
        x = nn.Conv(c.width, patch, patch, padding="VALID", name="patch_embed")(
            image
        )  # (B, h, w, D)
        B, h, w, D = x.shape
        x = x.reshape(B, h * w, D)  # (B, h w, D)
        if not c.rotary:
            x = x + self.param("positions", init, (h * w, D))[None]
        prefix = self.param("cls_token", init, (1, D))
        if c.num_registers:
            registers = self.param("register_tokens", init, (c.num_registers, D))
            prefix = jnp.concatenate([prefix, registers])  # (1 + registers, D)
        num_prefix = len(prefix)
        prefix = jnp.broadcast_to(prefix, (B, num_prefix, D))
        x = jnp.concatenate([prefix, x], axis=1)  # (B, N, D)
        norm = _norm(c, "norm")
        angles = rotary_angles(c, (h, w))
        features = []
        for i in range(self.layers[-1] + 1):
            x = Block(c, name=f"block_{i}")(x, angles)
            if i in self.layers:
                features.append(norm(x)[:, num_prefix:].reshape(B, h, w, D))  # (B, h, w, D)
        return features


def build_backbone(config: EncoderConfig, image_size: int) -> Backbone:
    """The variant that `config.name` names; by default its last layer."""
    variant = VARIANTS[config.name]
    layers = resolve_stages(config.stages, (variant.depth - 1,), variant.depth)
    network = ViT(variant, layers)
    side, rest = divmod(image_size, variant.patch_size)
    if rest or not side:
        near = max(side, 1) * variant.patch_size
        raise UserError(
            f"data.image_size={image_size}: {config.name} needs a multiple of its patch, such as "
            f"{near} or {near + variant.patch_size}"
        )

    def features(variables: Variables, image: jax.Array) -> Any:
        return network.apply({"params": variables}, image)

    return Backbone(
        features=features,
        abstract=_abstract(network, (side, side)),
        convert=lambda tensors: convert(tensors, variant, layers, (side, side)),
        stages=layers,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _abstract(network: ViT, grid: tuple[int, int]) -> Variables:
    height, width = (n * network.config.patch_size for n in grid)
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), image)["params"]


# --- weights


def convert(
    tensors: dict[str, np.ndarray],
    config: ViTConfig,
    layers: tuple[int, ...],
    grid: tuple[int, int],
) -> Variables:
    """Published tensors -> variables of `ViT(config, layers)` for images of `grid` patches.

    Args:
      tensors: named as in the authors' files, in timm or in `transformers`.
      grid: height and width of the images in patches.

    Raises:
      UserError: tensors that are missing, of another shape or that the network does not have.
    """
    reader = TensorReader(_with_positions(_facebook_tensors(tensors, config), config, grid))
    params = mirrored_params(reader, _abstract(ViT(config, layers), grid), _facebook_name)
    unused = "|".join(str(i) for i in range(layers[-1] + 1, config.depth))
    reader.finish(ignore=rf"mask_token|(head|pooler|rope_embed)\..*|blocks\.({unused})\..*")
    return params


def _with_positions(
    tensors: dict[str, np.ndarray], config: ViTConfig, grid: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Brings the position embeddings to `grid`, and adds the class token's own to the class token.

    timm's files with registers have none for the class token: it is already added.
    """
    tensors = dict(tensors)
    for name in ("cls_token", "register_tokens", "pos_embed"):
        if name in tensors:
            tensor = tensors[name].astype(np.float32)
            tensors[name] = tensor.reshape(-1, tensor.shape[-1])  # (N, D)
    if "pos_embed" in tensors and "cls_token" in tensors:
        positions = tensors["pos_embed"]
        side = math.isqrt(len(positions))
        if len(positions) == side**2 + 1:
            tensors["cls_token"] = tensors["cls_token"] + positions[:1]
            positions = positions[1:]
        if len(positions) == side**2:
            square = positions.reshape(side, side, -1)  # (M, M, D)
            resampled = resample_positions(
                square, grid, config.position_offset, config.position_antialias
            )
            tensors["pos_embed"] = resampled.reshape(-1, square.shape[-1])  # (h w, D)
    return tensors


_TO_FACEBOOK = (
    ("reg_token", "register_tokens"),
    ("storage_tokens", "register_tokens"),
    ("patch_embeddings.projection.", "patch_embed.proj."),
    ("patch_embeddings.", "patch_embed.proj."),
    ("position_embeddings", "pos_embed"),
    ("embeddings.", ""),
    ("encoder.layer.", "blocks."),
    ("layer.", "blocks."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    ("layernorm.", "norm."),
    (".attention.attention.", ".attn."),
    (".attention.output.dense.", ".attn.proj."),
    (".attention.o_proj.", ".attn.proj."),
    (".attention.q_proj.", ".attn.query."),
    (".attention.k_proj.", ".attn.key."),
    (".attention.v_proj.", ".attn.value."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
    (".up_proj.", ".fc1."),
    (".down_proj.", ".fc2."),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
)
"""Replacements, in this order, from the names of timm and of `transformers` to one naming: that of
the authors of DINO and DINOv2."""


def _facebook_tensors(state: dict[str, np.ndarray], config: ViTConfig) -> dict[str, np.ndarray]:
    """Under the authors' names, with query, key and value in one tensor."""
    tensors = {}
    for name, tensor in state.items():
        for theirs, facebook in _TO_FACEBOOK:
            name = name.replace(theirs, facebook)
        tensors[name] = tensor
    for query in [name for name in tensors if ".attn.query." in name]:
        parts = [query.replace("query", part) for part in ("query", "key", "value")]
        if config.rotary and query.endswith(".bias"):
            tensors.setdefault(parts[1], np.zeros_like(tensors[query]))  # DINOv3's keys have none
        if all(part in tensors for part in parts):
            merged = np.concatenate([tensors.pop(part) for part in parts])  # (3 D, D) or (3 D,)
            tensors[query.replace("query", "qkv")] = merged
    for bias in [name for name in tensors if name.endswith(".attn.qkv.bias")]:
        if f"{bias}_mask" in tensors:  # the same in the authors' files: 0 for the keys
            tensors[bias] = np.where(tensors.pop(f"{bias}_mask") == 0, 0, tensors[bias])
    return tensors


def _facebook_name(path: str) -> str:
    """`block_0/fc1/kernel` -> `blocks.0.mlp.fc1.weight`."""
    name = dotted(path).replace("block_", "blocks.").replace("patch_embed.", "patch_embed.proj.")
    return name.replace(".fc", ".mlp.fc").replace("positions", "pos_embed")


def resample_positions(
    positions: np.ndarray, grid: tuple[int, int], offset: float, antialias: bool
) -> np.ndarray:
    """Bicubic resampling of a square of position embeddings, as torch's `interpolate` computes it.

    Args:
      positions: (M, M, D).
      grid: height and width of the result.
      offset: see `ViTConfig.position_offset`.
      antialias: see `ViTConfig.position_antialias`.

    Returns:
      (h, w, D) float32; `positions` itself where the grid is theirs.
    """
    if grid == positions.shape[:2]:
        return positions
    rows, columns = (_bicubic_weights(len(positions), n, offset, antialias) for n in grid)
    return np.einsum("hm,wn,mnd->hwd", rows, columns, positions, optimize=True).astype(np.float32)


def _bicubic_weights(source: int, target: int, offset: float, antialias: bool) -> np.ndarray:
    """(target, source): each row holds the weights of the source values in one target value."""
    step = source / (target + offset)
    centre = (np.arange(target) + 0.5)[:, None] * step - 0.5  # (target, 1)
    if antialias:
        # As Pillow: Keys' kernel of a = -0.5, widened by the step, normalised within the border.
        weights = _keys_kernel((np.arange(source) - centre) / max(step, 1.0), a=-0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    taps = np.floor(centre).astype(int) + np.arange(-1, 3)  # (target, 4)
    weights = np.zeros((target, source))
    rows = np.arange(target)[:, None]
    # a = -0.75 is torch's kernel; the border value is repeated outside.
    np.add.at(weights, (rows, taps.clip(0, source - 1)), _keys_kernel(taps - centre, a=-0.75))
    return weights


def _keys_kernel(x: np.ndarray, a: float) -> np.ndarray:
    """Cubic convolution kernel (Keys 1981)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
