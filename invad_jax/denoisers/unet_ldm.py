"""U-Nets of detectors that grew out of latent diffusion, for their published weights.

All are `unet.py`'s with other layers at its attention: DeCo-Diff's are transformers that see the
class of the product, MAD-AD's are those of guided diffusion, and a second head says where the
image is normal; DiAD's are transformers that see a text, and a second network tells the first of
the image. Sources: Beizaee et al. (CVPR 2025), Beizaee et al. (IPMI 2025), He et al. (AAAI 2024).
Read next: `unet.py`, `transformer.py`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers import unet
from invad_jax.denoisers.transformer import NORM_GROUPS, Transformer
from invad_jax.denoisers.unet import UNIFORM, ZEROS, Attend, Way, conv3, embedded, head
from invad_jax.errors import UserError

HINT = ((16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2))
"""Channels and strides of DiAD's convolutions over the image, before the last one."""
IMAGE_OVER_LATENT = 8
_LEVELS, _BLOCKS = 4, 2
"""Of DiAD's network, whose controls have fixed places."""
_FUSED = (6, 7, 8)
"""Which controls DiAD's fusion reads; it adds to the three after them."""


def build_deco_diff(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> LabelUNet:
    """Checks that the sizes fit; see `build_denoiser`."""
    _check_sizes(cfg, latent_shape)
    _check_context(cfg, least=1)
    if not 1 <= cfg.head_channels <= cfg.width:
        raise UserError(
            f"denoiser.head_channels={cfg.head_channels}: must lie in 1..{cfg.width}, the width"
        )
    return LabelUNet(cfg, latent_shape)


def build_mad_ad(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> MaskUNet:
    """Checks that the sizes fit; see `build_denoiser`."""
    _check_sizes(cfg, latent_shape)
    _check_num_heads(cfg)
    return MaskUNet(cfg, latent_shape)


def build_diad(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> GuidedUNet:
    """Checks that the sizes fit; see `build_denoiser`."""
    _check_sizes(cfg, latent_shape)
    _check_context(cfg, least=0)
    _check_num_heads(cfg)
    if len(cfg.channel_mult) != _LEVELS or cfg.num_res_blocks != _BLOCKS:
        raise UserError(
            f"denoiser.name=unet_diad: has {_LEVELS} levels of {_BLOCKS} residual blocks, and not "
            f"denoiser.channel_mult={cfg.channel_mult} with {cfg.num_res_blocks} blocks"
        )
    return GuidedUNet(cfg, latent_shape)


def _check_sizes(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> None:
    unet.check_levels(cfg, latent_shape)
    if cfg.width % NORM_GROUPS:
        raise UserError(
            f"denoiser.width={cfg.width}: {cfg.name} takes multiples of {NORM_GROUPS}, the groups "
            "of its normalisations"
        )


def _check_context(cfg: DenoiserConfig, least: int) -> None:
    if len(cfg.context) != 2 or cfg.context[0] < least or cfg.context[1] < 1:
        raise UserError(
            f"denoiser.context={cfg.context}: {cfg.name} takes two numbers, of vectors and of "
            "their width"
        )


def _check_num_heads(cfg: DenoiserConfig) -> None:
    for mult in cfg.channel_mult:
        if mult * cfg.width % cfg.num_heads:
            raise UserError(
                f"denoiser.num_heads={cfg.num_heads}: must divide the {mult * cfg.width} channels "
                "of every level"
            )


class LabelUNet(nn.Module):
    """DeCo-Diff's: (x_t (B, h, w, C), t (B,) or (1,), label (B,) int or None) -> how each position
    deviates from normality, (B, h, w, C) float32; without a label the class vector is 0."""

    SAYS = ("deviation",)
    SEES = ("label",)
    cfg: DenoiserConfig
    latent_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x_t: jax.Array, t: jax.Array, label: jax.Array | None = None) -> jax.Array:
        cfg = self.cfg
        classes = self.param("classes", nn.initializers.normal(1.0), tuple(cfg.context))
        vector = jnp.zeros((1, cfg.context[1])) if label is None else classes[label]
        transformers = _transformers(cfg, vector[:, None], None)  # (B or 1, 1, E)
        return _trunk(cfg, x_t, Way(cfg, embedded(cfg, t), transformers))[1]


class MaskUNet(nn.Module):
    """MAD-AD's: (x_t (B, h, w, C), t (B,) or (1,)) -> `x0` (B, h, w, C) and `mask` (B, h, w, 1),
    the probability that a position is normal; float32."""

    SAYS = ("x0", "mask")
    cfg: DenoiserConfig
    latent_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x_t: jax.Array, t: jax.Array) -> dict[str, jax.Array]:
        cfg = self.cfg
        block = nn.remat(unet.AttentionBlock) if cfg.remat else unet.AttentionBlock

        def attend(h: jax.Array, name: str) -> jax.Array:
            return block(cfg, h.shape[-1] // cfg.num_heads, name=name)(h)

        h, x0 = _trunk(cfg, x_t, Way(cfg, embedded(cfg, t), attend))
        return {"x0": x0, "mask": nn.sigmoid(head(cfg, h, 1, False, "mask"))}


class GuidedUNet(nn.Module):
    """DiAD's: (x_t (B, h, w, C), t (B,) or (1,), image (B, 8 h, 8 w, 3), text (B or 1, M, E)) ->
    eps (B, h, w, C) float32.

    Without an image it is the U-Net of latent diffusion alone. Without a text it takes the one that
    came with its parameters.
    """

    SAYS = ("eps",)
    SEES = ("image", "text")
    cfg: DenoiserConfig
    latent_shape: tuple[int, int, int]

    @nn.compact
    def __call__(
        self,
        x_t: jax.Array,
        t: jax.Array,
        image: jax.Array | None = None,
        text: jax.Array | None = None,
    ) -> jax.Array:
        cfg = self.cfg
        tokens, width = cfg.context
        if tokens:
            kept = self.param("text", nn.initializers.zeros, (1, tokens, width))
            text = kept if text is None else text
        if self.is_initializing():
            _, h, w, _ = x_t.shape
            image = jnp.zeros((1, IMAGE_OVER_LATENT * h, IMAGE_OVER_LATENT * w, 3))
            text = jnp.zeros((1, 1, width)) if text is None else text
        if text is None:
            raise UserError("this U-Net attends to a text, and there is none: give `text`")
        controls = None
        if image is not None:
            controls = Guide(cfg, name="guide")(x_t, t, image, text)
        way = Way(cfg, embedded(cfg, t), _transformers(cfg, text, cfg.num_heads))
        return _trunk(cfg, x_t, way, controls)[1]


class Guide(nn.Module):
    """Half of the U-Net over again, which sees the image too, and a fusion of its coarse states."""

    cfg: DenoiserConfig

    @nn.compact
    def __call__(
        self, x_t: jax.Array, t: jax.Array, image: jax.Array, text: jax.Array
    ) -> list[jax.Array]:
        """What is added to each state of the way down and, the last, to the middle."""
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.activations)
        way = Way(cfg, embedded(cfg, t), _transformers(cfg, text, cfg.num_heads))
        hint = image
        for i, (channels, stride) in enumerate(HINT):
            hint = nn.silu(conv3(channels, dtype, f"hint_{i}", stride)(hint))
        hint = conv3(cfg.width, dtype, f"hint_{len(HINT)}", kernel_init=ZEROS)(hint)
        states = way.down(conv3(cfg.width, dtype, "conv_in")(x_t) + hint)
        outs = [
            nn.Dense(state.shape[-1], dtype=dtype, kernel_init=ZEROS, name=f"zero_{i}")(state)
            for i, state in enumerate(states)
        ]
        for place in range(len(_FUSED)):
            target = _FUSED[-1] + 1 + place
            coarser = [
                self._halved(outs[source], f"fuse_{i + 1}{place + 1}", outs[target].shape[-1])
                for i, source in enumerate(_FUSED)
            ]
            outs[target] = nn.silu(outs[target] + sum(coarser))
        middle = way.middle(states[-1])
        out = nn.Dense(middle.shape[-1], dtype=dtype, kernel_init=ZEROS, name="zero_middle")
        return [*outs, out(middle)]

    @nn.nowrap
    def _halved(self, x: jax.Array, name: str, channels: int) -> jax.Array:
        """Convolution of stride 2, each channel of an image normalised: (B, h / 2, w / 2, .)."""
        dtype = jnp.dtype(self.cfg.activations)
        conv = nn.Conv(
            channels,
            (3, 3),
            2,
            padding=[(1, 1)] * 2,
            use_bias=False,
            dtype=dtype,
            kernel_init=UNIFORM,
            name=name,
        )
        norm = nn.InstanceNorm(
            epsilon=1e-5,
            use_bias=False,
            use_scale=False,
            dtype=jnp.float32,
            use_fast_variance=False,
        )
        return nn.silu(norm(conv(x)))


def _transformers(cfg: DenoiserConfig, context: jax.Array, heads: int | None) -> Attend:
    """Layers that attend to a context; heads of `cfg.head_channels` where their number is None."""
    transformer = nn.remat(Transformer) if cfg.remat else Transformer

    def attend(h: jax.Array, name: str) -> jax.Array:
        head_channels = cfg.head_channels if heads is None else h.shape[-1] // heads
        of = (heads or h.shape[-1] // head_channels, head_channels)
        return transformer(*of, jnp.dtype(cfg.activations), name=name)(h, context)

    return attend


def _trunk(
    cfg: DenoiserConfig, x_t: jax.Array, way: Way, controls: list[jax.Array] | None = None
) -> tuple[jax.Array, Any]:
    """The last features (B, h, w, D) and the output (B, h, w, C) of a U-Net.

    Of the controls the middle takes one, and the coarsest skips one each: as published
    (`only_mid_control`), all others are dropped.
    """
    skips = way.down(conv3(cfg.width, jnp.dtype(cfg.activations), "conv_in")(x_t))
    h = way.middle(skips[-1])
    if controls is not None:
        h = h + controls[-1]
        used = len(_FUSED)
        skips[-used:] = [
            s + c for s, c in zip(skips[-used:], controls[-1 - used : -1], strict=True)
        ]
    h = way.up(h, skips)  # (B, h, w, D)
    return h, head(cfg, h, x_t.shape[-1], True, "out")
