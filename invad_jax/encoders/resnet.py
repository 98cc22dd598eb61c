"""Wide-ResNet-50-2 (Zagoruyko & Komodakis 2016; He et al. 2016), the features of its stages.

torchvision's variant: the stride of a block sits on its 3 x 3 convolution. Each batch
normalisation is folded into the convolution before it when the weights are loaded, so the network
is convolutions and ReLUs. It ends at the last stage that is used.

Read next: `feature_stack.py` for how stages become one latent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from invad_jax.config import EncoderConfig
from invad_jax.encoders.backbone import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    Variables,
    resolve_stages,
)
from invad_jax.encoders.weights import folded_conv
from invad_jax.io.tensor_reader import TensorReader

BATCH_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a bottleneck ResNet; the defaults are those of Wide-ResNet-50-2."""

    num_blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Residual blocks of each stage."""
    stem_channels: int = 64
    inner_channels: int = 128
    """Channels of the first stage's 3 x 3 convolutions; every later stage doubles them."""
    outer_channels: int = 256
    """Channels of the first stage's output; every later stage doubles them."""


VARIANTS = {"wide_resnet50_2": ResNetConfig()}


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions, around them a shortcut, 1 x 1 where the shape changes."""

    inner_channels: int
    outer_channels: int
    stride: int
    project: bool
    """Whether the shortcut is a convolution."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.relu(nn.Conv(self.inner_channels, (1, 1), name="conv1")(x))
        # torch pads both sides alike, where "SAME" at stride 2 pads the far side only.
        h = nn.Conv(self.inner_channels, (3, 3), self.stride, padding=1, name="conv2")(h)
        h = nn.Conv(self.outer_channels, (1, 1), name="conv3")(nn.relu(h))
        if self.project:
            x = nn.Conv(self.outer_channels, (1, 1), self.stride, name="shortcut")(x)
        return nn.relu(x + h)  # (B, H / stride, W / stride, outer_channels)


class ResNet(nn.Module):
    """Image to the outputs of some of its stages."""

    config: ResNetConfig
    stages: tuple[int, ...]
    """Rising indices of the stages that are returned; the last of them ends the network."""

    @nn.compact
    def __call__(self, image: jax.Array) -> list[jax.Array]:
        """(B, H, W, 3) normalised -> stage i: (B, H / 2^(i + 2), W / 2^(i + 2), outer 2^i)."""
        c = self.config
        x = nn.Conv(c.stem_channels, (7, 7), 2, padding=3, name="conv1")(image)  # (B, H/2, W/2, C)
        x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # (B, H/4, W/4, C)
        outputs = []
        for i, num_blocks in enumerate(c.num_blocks[: self.stages[-1] + 1]):
            for j in range(num_blocks):
                x = Bottleneck(
                    inner_channels=c.inner_channels * 2**i,
                    outer_channels=c.outer_channels * 2**i,
                    stride=2 if i > 0 and j == 0 else 1,
                    project=j == 0,
                    name=f"layer{i + 1}_{j}",
                )(x)  # (B, H / 2^(i + 2), W / 2^(i + 2), outer 2^i)
            outputs.append(x)
        return [outputs[i] for i in self.stages]


def build_backbone(config: EncoderConfig, image_size: int) -> Backbone:
    """Wide-ResNet-50-2; by default the stages that the published code stacks, all but the last."""
    variant = VARIANTS[config.name]
    stages = resolve_stages(config.stages, (0, 1, 2), len(variant.num_blocks))
    network = ResNet(variant, stages)

    def features(variables: Variables, image: jax.Array) -> Any:
        return network.apply({"params": variables}, image)

    return Backbone(
        features=features,
        abstract=_abstract(network, image_size),
        convert=lambda tensors: convert(tensors, variant, stages),
        stages=stages,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def convert(
    tensors: dict[str, np.ndarray], config: ResNetConfig, stages: tuple[int, ...]
) -> Variables:
    """Tensors named as in torchvision and timm -> variables of `ResNet(config, stages)`.

    Raises:
      UserError: tensors that are missing, of another shape or that a ResNet does not have.
    """
    reader = TensorReader(tensors)
    flat = {}
    for path, leaf in flatten_dict(_abstract(ResNet(config, stages), 32), sep="/").items():
        module, _, kind = path.rpartition("/")
        if kind == "kernel":
            height, width, inputs, outputs = leaf.shape
            shape = (outputs, inputs, height, width)
            flat[module] = folded_conv(reader, *_torch_names(module), shape, BATCH_NORM_EPSILON)
    unused = f"layer[{stages[-1] + 2}-9]"
    reader.finish(ignore=rf"fc\..*|{unused}\..*|.*\.num_batches_tracked")
    return unflatten_dict(flat, sep="/")


def _abstract(network: ResNet, image_size: int) -> Variables:
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), image)["params"]


def _torch_names(module: str) -> tuple[str, str]:
    """A convolution and its normalisation.

    >>> _torch_names("layer1_0/conv2"), _torch_names("layer1_0/shortcut")
    (('layer1.0.conv2', 'layer1.0.bn2'), ('layer1.0.downsample.0', 'layer1.0.downsample.1'))
    """
    name = re.sub(r"^(layer\d)_(\d+)/", r"\1.\2.", module)
    if name.endswith("shortcut"):
        name = name.replace("shortcut", "downsample")
        return f"{name}.0", f"{name}.1"
    return name, name.replace("conv", "bn")
