"""EfficientNet B0 to B7 (Tan & Le 2019) and Lite0 to Lite2, up to the last block that is used.

The weights are those that TensorFlow trained, in the form of the PyTorch port by L. Melas-Kyriazi
and, for Lite, its descendant by ML Illustrated. Two things of the port matter for parity:
- "SAME" padding is computed once, for the image size the network was trained at, and kept for all
  others (`same_padding`, `block_specs`). At 256 pixels B4 (trained at 380) pads its stride-2
  5 x 5 convolution by (2, 2) where TensorFlow would pad (1, 2): features move by one position.
- Batch normalisation has an epsilon of 1e-3. It is folded into the convolutions on loading.

Read next: `feature_stack.py` for how the blocks' outputs become one latent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
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
from invad_jax.encoders.weights import conv, folded_conv, pointwise
from invad_jax.io.tensor_reader import TensorReader

BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class EfficientNetConfig:
    """How a variant scales the base network."""

    width: float
    """Factor on the channels."""
    depth: float
    """Factor on the repeats."""
    native_size: int
    """Side in pixels of the images it was trained on; decides the padding."""
    lite: bool = False
    """ReLU6 for swish, no squeeze-and-excitation; stem, first and last stage are not scaled."""


VARIANTS = {
    "efficientnet_b0": EfficientNetConfig(1.0, 1.0, 224),
    "efficientnet_b1": EfficientNetConfig(1.0, 1.1, 240),
    "efficientnet_b2": EfficientNetConfig(1.1, 1.2, 260),
    "efficientnet_b3": EfficientNetConfig(1.2, 1.4, 300),
    "efficientnet_b4": EfficientNetConfig(1.4, 1.8, 380),
    "efficientnet_b5": EfficientNetConfig(1.6, 2.2, 456),
    "efficientnet_b6": EfficientNetConfig(1.8, 2.6, 528),
    "efficientnet_b7": EfficientNetConfig(2.0, 3.1, 600),
    "efficientnet_lite0": EfficientNetConfig(1.0, 1.0, 224, lite=True),
    "efficientnet_lite1": EfficientNetConfig(1.0, 1.1, 240, lite=True),
    "efficientnet_lite2": EfficientNetConfig(1.1, 1.2, 260, lite=True),
}

STEM_CHANNELS = 32
BASE_STAGES = (  # repeats, kernel, stride, expansion, channels: table 1 of the paper
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class BlockSpec:
    """One inverted bottleneck."""

    kernel: int
    stride: int
    expansion: int
    in_channels: int
    out_channels: int
    padding: tuple[int, int]
    """Rows (and columns) of zeros before and after, of the depthwise convolution."""
    downsampling: int
    """Image side over output side."""

    @property
    def inner_channels(self) -> int:
        return self.in_channels * self.expansion

    @property
    def squeezed_channels(self) -> int:
        return max(1, self.in_channels // 4)


def stem_channels(config: EfficientNetConfig) -> int:
    """Channels of the first convolution."""
    return STEM_CHANNELS if config.lite else _scaled_channels(STEM_CHANNELS, config.width)


def block_specs(config: EfficientNetConfig) -> list[BlockSpec]:
    """All blocks of a variant, in order."""
    specs = []
    size, downsampling = math.ceil(config.native_size / 2), 2  # after the stem
    channels = stem_channels(config)
    for i, (repeats, kernel, stage_stride, expansion, out) in enumerate(BASE_STAGES):
        if not (config.lite and i in (0, len(BASE_STAGES) - 1)):
            repeats = math.ceil(config.depth * repeats)
        out_channels = _scaled_channels(out, config.width)
        for repeat in range(repeats):
            stride = stage_stride if repeat == 0 else 1
            padding = same_padding(size, kernel, stride)
            size, downsampling = math.ceil(size / stride), downsampling * stride
            specs.append(
                BlockSpec(kernel, stride, expansion, channels, out_channels, padding, downsampling)
            )
            channels = out_channels
    return specs


def default_stages(specs: list[BlockSpec]) -> tuple[int, ...]:
    """The last block of each of the downsamplings 2, 4, 8 and 16.

    >>> default_stages(block_specs(VARIANTS["efficientnet_b4"]))
    (1, 5, 9, 21)
    """
    last = {spec.downsampling: i for i, spec in enumerate(specs)}
    return tuple(last[downsampling] for downsampling in (2, 4, 8, 16))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after that make an input of `size` give ceil(size / stride) outputs."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _scaled_channels(channels: int, factor: float) -> int:
    """Rounded to a multiple of 8, by at most 10 % downwards."""
    scaled = channels * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * scaled else rounded + 8


class DepthwiseConv(nn.Module):
    """Convolution of each channel by itself, as a sum of shifted products.

    XLA fuses the sum into one loop; on CPUs its grouped convolution, the usual way to write this,
    is 5 to 15 times slower.
    """

    kernel: int
    stride: int
    padding: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k, s = self.kernel, self.stride
        weights = self.param("kernel", nn.initializers.he_normal(), (k, k, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        x = jnp.pad(x, ((0, 0), self.padding, self.padding, (0, 0)))
        rows, columns = ((n - k) // s * s + 1 for n in x.shape[1:3])  # from first to last, at s
        return bias[None, None, None] + sum(
            x[:, i : i + rows : s, j : j + columns : s] * weights[None, None, i, j, None]
            for i, j in itertools.product(range(k), repeat=2)
        )  # (B, H / s, W / s, C)


class SqueezeExcite(nn.Module):
    """Scales each channel by a function of all channels' means."""

    squeezed_channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        s = x.mean(axis=(1, 2), keepdims=True)  # (B, 1, 1, C)
        s = nn.swish(_dense(self.squeezed_channels, "reduce")(s))
        return x * nn.sigmoid(_dense(x.shape[-1], "expand")(s))


class Block(nn.Module):
    """Expand, convolve each channel, weigh the channels, project; around it the identity."""

    spec: BlockSpec
    lite: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        spec, activation = self.spec, _activation(self.lite)
        h = x
        if spec.expansion > 1:
            h = activation(_dense(spec.inner_channels, "expand")(h))
        depthwise = DepthwiseConv(spec.kernel, spec.stride, spec.padding, name="depthwise")
        h = activation(depthwise(h))  # (B, H / stride, W / stride, inner_channels)
        if not self.lite:
            h = SqueezeExcite(spec.squeezed_channels, name="se")(h)
        h = _dense(spec.out_channels, "project")(h)
        return x + h if spec.stride == 1 and spec.in_channels == spec.out_channels else h


class EfficientNet(nn.Module):
    """Image to the outputs of some of its blocks."""

    config: EfficientNetConfig
    stages: tuple[int, ...]
    """Rising indices of the blocks whose outputs are returned; the last ends the network."""

    @nn.compact
    def __call__(self, image: jax.Array) -> list[jax.Array]:
        """(B, S, S, 3) normalised -> outputs (B, h_i, w_i, C_i)."""
        padding = same_padding(self.config.native_size, kernel=3, stride=2)
        stem = nn.Conv(
            stem_channels(self.config), (3, 3), strides=2, padding=(padding, padding), name="stem"
        )
        x = _activation(self.config.lite)(stem(image))  # (B, S / 2, S / 2, stem channels)
        outputs = []
        for i, spec in enumerate(block_specs(self.config)[: self.stages[-1] + 1]):
            x = Block(spec, self.config.lite, name=f"block_{i}")(x)
            outputs.append(x)
        return [outputs[i] for i in self.stages]


def _dense(channels: int, name: str) -> nn.Dense:
    """A 1 x 1 convolution."""
    return nn.Dense(channels, name=name)


def _activation(lite: bool) -> Callable[[jax.Array], jax.Array]:
    return nn.relu6 if lite else nn.swish


def build_backbone(config: EncoderConfig, image_size: int) -> Backbone:
    """The variant that `config.name` names."""
    variant = VARIANTS[config.name]
    specs = block_specs(variant)
    stages = resolve_stages(config.stages, default_stages(specs), len(specs))
    network = EfficientNet(variant, stages)
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
    key = jax.eval_shape(jax.random.key, 0)

    def features(variables: Variables, image: jax.Array) -> Any:
        return network.apply({"params": variables}, image)

    return Backbone(
        features=features,
        abstract=jax.eval_shape(network.init, key, image)["params"],
        convert=lambda tensors: convert(tensors, variant, stages[-1] + 1),
        stages=stages,
        mean=(127.0,) * 3 if variant.lite else IMAGENET_MEAN,
        std=(128.0,) * 3 if variant.lite else IMAGENET_STD,
    )


def convert(
    tensors: Mapping[str, np.ndarray], config: EfficientNetConfig, num_blocks: int
) -> Variables:
    """Tensors of the PyTorch port -> variables of the first `num_blocks` blocks.

    Raises:
      UserError: tensors that are missing, of another shape or that the port does not have.
    """
    reader = TensorReader(tensors)
    shape = (stem_channels(config), 3, 3, 3)
    variables: Variables = {"stem": _folded(reader, "_conv_stem", "_bn0", shape)}
    for i, spec in enumerate(block_specs(config)):  # all, so that another variant's file is noticed
        block = dict(_block_variables(reader, f"_blocks.{i}.", spec, config.lite))
        if i < num_blocks:
            variables[f"block_{i}"] = block
    reader.finish(ignore=r"(_conv_head|_bn1|_fc)\..*|.*\.num_batches_tracked")
    return variables


def _block_variables(
    reader: TensorReader, prefix: str, spec: BlockSpec, lite: bool
) -> Iterator[tuple[str, Variables]]:
    inner, out, k = spec.inner_channels, spec.out_channels, spec.kernel
    if spec.expansion > 1:
        shape = (inner, spec.in_channels, 1, 1)
        yield "expand", pointwise(_folded(reader, f"{prefix}_expand_conv", f"{prefix}_bn0", shape))
    depthwise = _folded(reader, f"{prefix}_depthwise_conv", f"{prefix}_bn1", (inner, 1, k, k))
    yield "depthwise", depthwise | {"kernel": depthwise["kernel"][:, :, 0]}  # (k, k, inner)
    if not lite:
        squeezed = spec.squeezed_channels
        reduce = conv(reader, f"{prefix}_se_reduce", (squeezed, inner, 1, 1))
        expand = conv(reader, f"{prefix}_se_expand", (inner, squeezed, 1, 1))
        yield "se", {"reduce": pointwise(reduce), "expand": pointwise(expand)}
    projection = _folded(reader, f"{prefix}_project_conv", f"{prefix}_bn2", (out, inner, 1, 1))
    yield "project", pointwise(projection)


def _folded(
    reader: TensorReader, name: str, norm: str, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    return folded_conv(reader, name, norm, shape, BATCH_NORM_EPSILON)
