"""U-Net of guided diffusion: residual blocks, attention on coarse levels (Dhariwal & Nichol 2021).

`stages` lists the layers once; the network runs that list and `published.py` names parameters by
it. Read next: `embeddings.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers.embeddings import TimestepEmbedding
from invad_jax.errors import UserError

UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within 1 / sqrt(fan in), torch's default, which this network's authors kept."""
ZEROS = nn.initializers.zeros


class Stage(NamedTuple):
    """Layers that run one after another between two skip connections."""

    channels: int
    layers: tuple[str, ...]
    """Of `res`, `attention`, `down`, `up`."""


def stages(cfg: DenoiserConfig) -> tuple[list[Stage], list[Stage]]:
    """The way down, after the first convolution, and the way up."""
    down: list[Stage] = []
    up: list[Stage] = []
    last = len(cfg.channel_mult) - 1
    for level, mult in enumerate(cfg.channel_mult):
        attends = 2**level in cfg.attention_downsamplings
        layers = ("res", "attention") if attends else ("res",)
        stage = Stage(mult * cfg.width, layers)
        down += [stage] * cfg.num_res_blocks
        level_up = [stage] * (cfg.num_res_blocks + 1)
        if level < last:
            down.append(Stage(stage.channels, ("down",)))
        if level > 0:
            level_up[-1] = Stage(stage.channels, (*layers, "up"))
        up = level_up + up
    return down, up


def build(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> UNet:
    """Checks that the sizes fit; see `build_denoiser`."""
    if not cfg.channel_mult or min(cfg.channel_mult) < 1:
        raise UserError(f"denoiser.channel_mult={cfg.channel_mult}: needs positive multipliers")
    height, width, _ = latent_shape
    factor = 2 ** (len(cfg.channel_mult) - 1)
    if height % factor or width % factor:
        raise UserError(
            f"denoiser.channel_mult={cfg.channel_mult}: its {len(cfg.channel_mult)} levels need a "
            f"latent grid divisible by {factor}, and it is {height} x {width}; give fewer levels"
        )
    if cfg.width % 2:
        raise UserError(f"denoiser.width={cfg.width}: must be even (timestep embedding)")
    attended = {stage.channels for stage in stages(cfg)[0] if "attention" in stage.layers}
    for channels in sorted(attended | {cfg.channel_mult[-1] * cfg.width}):
        if channels % cfg.head_channels:
            raise UserError(
                f"denoiser.head_channels={cfg.head_channels}: must divide the {channels} channels "
                "of every level with attention"
            )
    return UNet(cfg, latent_shape)


def num_groups(channels: int) -> int:
    """Groups of the normalisation: 32, as published, where that divides the channels.

    Elsewhere the most that leaves four channels a group. The timestep enters as a shift that is
    constant over the grid, so a group of one channel subtracts it again. The published 32 groups
    do that to levels of 32 channels, which no published size has: avoid them.

    >>> [num_groups(c) for c in (512, 64, 48, 16, 3)]
    [32, 32, 12, 4, 1]
    """
    if channels % 32 == 0:
        return 32
    fitting = (g for g in range(1, 32) if channels % g == 0 and channels // g >= 4)
    return max(fitting, default=1)


def group_norm(channels: int, name: str) -> nn.GroupNorm:
    """GroupNorm in float32 with the epsilon and variance of torch."""
    return nn.GroupNorm(
        num_groups(channels), epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, name=name
    )


def conv3(
    channels: int,
    dtype: jnp.dtype,
    name: str,
    strides: int = 1,
    kernel_init: nn.initializers.Initializer = UNIFORM,
) -> nn.Conv:
    """3 x 3 convolution, padded symmetrically at any stride, as in torch."""
    return nn.Conv(
        channels, (3, 3), strides, padding=1, dtype=dtype, kernel_init=kernel_init, name=name
    )


class ResBlock(nn.Module):
    """Two convolutions around a shift by the timestep; at initialisation only the skip."""

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, cond: jax.Array) -> jax.Array:
        """x (B, h, w, in), cond (B or 1, E) -> (B, h, w, channels)."""
        h = nn.silu(group_norm(x.shape[-1], name="norm_in")(x))
        h = conv3(self.channels, self.dtype, name="conv_in")(h)  # (B, h, w, channels)
        time = nn.Dense(self.channels, dtype=self.dtype, kernel_init=UNIFORM, name="time")
        h = h + time(nn.silu(cond))[:, None, None, :]
        h = nn.silu(group_norm(self.channels, name="norm_out")(h))
        h = conv3(self.channels, self.dtype, name="conv_out", kernel_init=ZEROS)(h)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype, kernel_init=UNIFORM, name="skip")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Multi-head attention among all positions; its softmax is float32."""

    head_channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        B, h, w, C = x.shape
        tokens = group_norm(C, name="norm")(x).reshape(B, h * w, C)  # (B, N, C)
        qkv = nn.Dense(3 * C, dtype=self.dtype, kernel_init=UNIFORM, name="qkv")(tokens)
        # Heads first, then q, k, v within each: the order of the published checkpoints.
        q, k, v = jnp.moveaxis(
            qkv.reshape(B, h * w, -1, 3, self.head_channels), 3, 0
        )  # (B, N, heads, head_channels) each
        out = jax.nn.dot_product_attention(q, k, v).reshape(B, h, w, C)  # (B, h, w, C)
        return x + nn.Dense(C, dtype=self.dtype, kernel_init=ZEROS, name="proj")(out)


class UNet(nn.Module):
    """(x_t (B, h, w, C), t (B,) or (1,)) -> eps (B, h, w, C) float32; zero at initialisation."""

    cfg: DenoiserConfig
    latent_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        cfg, channels = self.cfg, x_t.shape[-1]
        dtype = jnp.dtype(cfg.dtype)
        down, up = stages(cfg)
        middle = cfg.channel_mult[-1] * cfg.width
        cond = TimestepEmbedding(cfg.width, 4 * cfg.width, UNIFORM, dtype, name="time_embedding")(t)
        h = conv3(cfg.width, dtype, name="conv_in")(x_t)  # (B, h, w, D)
        skips = [h]
        for i, stage in enumerate(down, start=1):
            h = self._run(stage, f"input_{i}", h, cond)
            skips.append(h)
        h = self._run(Stage(middle, ("res", "attention")), "middle_0", h, cond)
        h = self._run(Stage(middle, ("res",)), "middle_1", h, cond)
        for i, stage in enumerate(up):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = self._run(stage, f"output_{i}", h, cond)
        h = nn.silu(group_norm(h.shape[-1], name="norm_out")(h))
        # float32 whatever cfg.dtype is: after the last inversion step this is x_T itself.
        out = conv3(channels, jnp.dtype("float32"), name="conv_out", kernel_init=ZEROS)
        return out(h)  # (B, h, w, C)

    @nn.nowrap
    def _run(self, stage: Stage, prefix: str, h: jax.Array, cond: jax.Array) -> jax.Array:
        """Runs the layers of a stage; their parameters are named `<prefix>_<layer>`."""
        dtype = jnp.dtype(self.cfg.dtype)
        maybe_remat = nn.remat if self.cfg.remat else lambda block: block
        for layer in stage.layers:
            name = f"{prefix}_{layer}"
            if layer == "res":
                h = maybe_remat(ResBlock)(stage.channels, dtype, name=name)(h, cond)
            elif layer == "attention":
                h = maybe_remat(AttentionBlock)(self.cfg.head_channels, dtype, name=name)(h)
            elif layer == "down":
                h = conv3(stage.channels, dtype, name, strides=2)(h)  # (B, h / 2, w / 2, C)
            else:
                h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)  # (B, 2 h, 2 w, C)
                h = conv3(stage.channels, dtype, name)(h)
        return h
