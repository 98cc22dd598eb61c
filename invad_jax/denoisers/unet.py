"""U-Net of guided diffusion: residual blocks, attention on coarse levels (Dhariwal & Nichol 2021).

`stages` lists the layers once; the network runs that list, and
`converters/published.py` names parameters by it. Read next: `layers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers.layers import TimestepEmbedding, attention
from invad_jax.errors import UserError

UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within 1 / sqrt(fan in), torch's default, which this network's authors kept."""
ZEROS = nn.initializers.zeros


class Stage(NamedTuple):
    """Layers that run one after another between two skip connections."""

    channels: int
    layers: tuple[str, ...]
    """Of `res`, `attention`, `down`, `up`, and `res_down`, `res_up`, which resample within."""


def stages(cfg: DenoiserConfig) -> tuple[list[Stage], list[Stage]]:
    """The way down, after the first convolution, and the way up."""
    down: list[Stage] = []
    up: list[Stage] = []
    last = len(cfg.channel_mult) - 1
    within = "res_" if "resample_in_blocks" in cfg.variants else ""
    for level, mult in enumerate(cfg.channel_mult):
        attends = 2**level in cfg.attention_downsamplings
        layers = ("res", "attention") if attends else ("res",)
        stage = Stage(mult * cfg.width, layers)
        down += [stage] * cfg.num_res_blocks
        level_up = [stage] * (cfg.num_res_blocks + 1)
        if level < last:
            down.append(Stage(stage.channels, (f"{within}down",)))
        if level > 0:
            level_up[-1] = Stage(stage.channels, (*layers, f"{within}up"))
        up = level_up + up
    return down, up


def middle_stages(cfg: DenoiserConfig) -> tuple[Stage, Stage]:
    """Between the way down and the way up."""
    channels = cfg.channel_mult[-1] * cfg.width
    plain = "no_middle_attention" in cfg.variants
    return Stage(channels, ("res",) if plain else ("res", "attention")), Stage(channels, ("res",))


def build(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> UNet:
    """Checks that the sizes fit; see `build_denoiser`."""
    check_levels(cfg, latent_shape)
    if cfg.width % 2 or cfg.width <= 2 * _frequency_shift(cfg):
        raise UserError(f"denoiser.width={cfg.width}: must be even, and with shifted_frequencies 4")
    all_stages = (*stages(cfg)[0], *middle_stages(cfg))
    attended = {stage.channels for stage in all_stages if "attention" in stage.layers}
    for channels in sorted(attended):
        if cfg.head_channels and channels % cfg.head_channels:
            raise UserError(
                f"denoiser.head_channels={cfg.head_channels}: must divide the {channels} channels "
                "of every level with attention"
            )
    return UNet(cfg, latent_shape)


def check_levels(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> None:
    """Raises UserError for a grid that cannot be halved between all levels."""
    if not cfg.channel_mult or min(cfg.channel_mult) < 1:
        raise UserError(f"denoiser.channel_mult={cfg.channel_mult}: needs positive multipliers")
    height, width, _ = latent_shape
    factor = 2 ** (len(cfg.channel_mult) - 1)
    if height % factor or width % factor:
        raise UserError(
            f"denoiser.channel_mult={cfg.channel_mult}: its {len(cfg.channel_mult)} levels need a "
            f"latent grid divisible by {factor}, and it is {height} x {width}; give fewer levels"
        )


def _frequency_shift(cfg: DenoiserConfig) -> int:
    return int("shifted_frequencies" in cfg.variants)


def num_groups(channels: int, most: int = 32) -> int:
    """Groups of the normalisation: `most`, as published, where that divides the channels.

    Elsewhere the most that leaves four channels a group. The timestep enters as a shift that is
    constant over the grid, so a group of one channel subtracts it again. The published 32 groups
    do that to levels of 32 channels, which no published size has: avoid them.

    >>> [num_groups(c) for c in (512, 64, 48, 16, 3)]
    [32, 32, 12, 4, 1]
    """
    if channels % most == 0:
        return most
    fitting = (g for g in range(1, most) if channels % g == 0 and channels // g >= 4)
    return max(fitting, default=1)


def group_norm(channels: int, cfg: DenoiserConfig, name: str) -> nn.GroupNorm:
    """GroupNorm in float32 with the variance of torch."""
    return nn.GroupNorm(
        num_groups(channels, cfg.norm_groups),
        epsilon=cfg.norm_eps,
        dtype=jnp.float32,
        use_fast_variance=False,
        name=name,
    )


def halved(x: jax.Array) -> jax.Array:
    """(B, h, w, C) -> (B, h / 2, w / 2, C), means of 2 x 2."""
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def doubled(x: jax.Array) -> jax.Array:
    """(B, h, w, C) -> (B, 2 h, 2 w, C), each position repeated."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def conv3(
    channels: int,
    dtype: jnp.dtype,
    name: str,
    strides: int = 1,
    kernel_init: nn.initializers.Initializer = UNIFORM,
    padding: tuple[int, int] = (1, 1),
) -> nn.Conv:
    """3 x 3 convolution, padded symmetrically at any stride, as in torch, unless told otherwise."""
    return nn.Conv(
        channels,
        (3, 3),
        strides,
        padding=[padding] * 2,
        dtype=dtype,
        kernel_init=kernel_init,
        name=name,
    )


class ResBlock(nn.Module):
    """Two convolutions around a shift by the timestep, or (`time_scale`) a scale and a shift
    of what is normalised; at initialisation only the skip."""

    channels: int
    cfg: DenoiserConfig
    resample: Callable[[jax.Array], jax.Array] | None = None
    """Before the first convolution, and on the skip."""

    @nn.compact
    def __call__(self, x: jax.Array, cond: jax.Array) -> jax.Array:
        """x (B, h, w, in), cond (B or 1, E) -> (B, h, w, channels), h and w resampled."""
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.activations)
        h = nn.silu(group_norm(x.shape[-1], cfg, name="norm_in")(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = conv3(self.channels, dtype, name="conv_in")(h)  # (B, h, w, channels)
        scaled = "time_scale" in cfg.variants
        vectors = 2 if scaled else 1
        project = nn.Dense(vectors * self.channels, dtype=dtype, kernel_init=UNIFORM, name="time")
        time = project(cond)[:, None, None, :]  # (B or 1, 1, 1, vectors * channels)
        norm = group_norm(self.channels, cfg, name="norm_out")
        if scaled:
            scale, shift = jnp.split(time, 2, axis=-1)  # (B or 1, 1, 1, channels) each
            h = norm(h) * (1.0 + scale) + shift
        else:
            h = norm(h + time)
        h = conv3(self.channels, dtype, name="conv_out", kernel_init=ZEROS)(nn.silu(h))
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, dtype=dtype, kernel_init=UNIFORM, name="skip")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Multi-head attention among all positions; its softmax is float32."""

    cfg: DenoiserConfig
    head_channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        B, h, w, C = x.shape
        dtype = jnp.dtype(self.cfg.activations)
        tokens = group_norm(C, self.cfg, name="norm")(x).reshape(B, h * w, C)  # (B, N, C)
        qkv = nn.Dense(3 * C, dtype=dtype, kernel_init=UNIFORM, name="qkv")(tokens)
        # Heads first, then q, k, v within each: the order of the published checkpoints.
        q, k, v = jnp.moveaxis(
            qkv.reshape(B, h * w, -1, 3, self.head_channels), 3, 0
        )  # (B, N, heads, head_channels) each
        out = attention(q, k, v).reshape(B, h, w, C)  # (B, h, w, C)
        return x + nn.Dense(C, dtype=dtype, kernel_init=ZEROS, name="proj")(out)


Attend = Callable[[jax.Array, str], jax.Array]
"""(x (B, h, w, C), name) -> the same shape: a layer of that name that looks at all positions."""


class Way:
    """The layers of a U-Net, run within the module that is being called; their parameters are
    named `<place>_<layer>`."""

    def __init__(self, cfg: DenoiserConfig, cond: jax.Array, attend: Attend):
        """`cond` (B or 1, E) is what the timestep has to say, activated."""
        self.cfg, self.cond, self.attend = cfg, cond, attend

    def down(self, h: jax.Array) -> list[jax.Array]:
        """From the first convolution's output: every state, the input first, the coarsest last."""
        states = [h]
        for i, stage in enumerate(stages(self.cfg)[0], start=1):
            states.append(self._run(stage, f"input_{i}", states[-1]))
        return states

    def middle(self, h: jax.Array) -> jax.Array:
        """At the coarsest grid."""
        for i, stage in enumerate(middle_stages(self.cfg)):
            h = self._run(stage, f"middle_{i}", h)
        return h

    def up(self, h: jax.Array, skips: Sequence[jax.Array]) -> jax.Array:
        """Back to the finest grid, with what `down` gave, the last first."""
        for i, (stage, skip) in enumerate(zip(stages(self.cfg)[1], skips[::-1], strict=True)):
            h = self._run(stage, f"output_{i}", jnp.concatenate([h, skip], axis=-1))
        return h

    def _run(self, stage: Stage, place: str, h: jax.Array) -> jax.Array:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.activations)
        res_block = nn.remat(ResBlock) if cfg.remat else ResBlock
        resampled = {"res": None, "res_down": halved, "res_up": doubled}
        for layer in stage.layers:
            name = f"{place}_{layer}"
            if layer in resampled:
                h = res_block(stage.channels, cfg, resampled[layer], name=name)(h, self.cond)
            elif layer == "attention":
                h = self.attend(h, name)
            elif layer == "down":
                padding = (0, 1) if "pad_at_end" in cfg.variants else (1, 1)
                h = conv3(stage.channels, dtype, name, 2, padding=padding)(h)  # (B, h / 2, ., C)
            else:
                h = conv3(stage.channels, dtype, name)(doubled(h))  # (B, 2 h, 2 w, C)
        return h


def embedded(cfg: DenoiserConfig, t: jax.Array) -> jax.Array:
    """What a timestep (B or 1,) has to say to all residual blocks, activated: (B or 1, 4 D)."""
    embedding = TimestepEmbedding(
        cfg.width,
        4 * cfg.width,
        UNIFORM,
        jnp.dtype(cfg.activations),
        _frequency_shift(cfg),
        name="time_embedding",
    )
    return nn.silu(embedding(t))


def head(cfg: DenoiserConfig, h: jax.Array, channels: int, activate: bool, name: str) -> jax.Array:
    """Normalised, convolved: (B, h, w, D) -> (B, h, w, channels) float32 whatever cfg.dtype is, as
    after the last inversion step this is x_T itself; layers `norm_<name>`, `conv_<name>`."""
    h = group_norm(h.shape[-1], cfg, name=f"norm_{name}")(h)
    conv = conv3(channels, jnp.dtype("float32"), name=f"conv_{name}", kernel_init=ZEROS)
    return conv(nn.silu(h) if activate else h)


class UNet(nn.Module):
    """(x_t (B, h, w, C), t (B,) or (1,)) -> eps (B, h, w, C) float32; zero at initialisation."""

    cfg: DenoiserConfig
    latent_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        cfg = self.cfg
        block = nn.remat(AttentionBlock) if cfg.remat else AttentionBlock

        def attend(h: jax.Array, name: str) -> jax.Array:
            return block(cfg, cfg.head_channels or h.shape[-1], name=name)(h)

        way = Way(cfg, embedded(cfg, t), attend)
        if "centred_input" in cfg.variants:
            x_t = 2.0 * x_t - 1.0
        h = conv3(cfg.width, jnp.dtype(cfg.activations), name="conv_in")(x_t)  # (B, h, w, D)
        skips = way.down(h)
        h = way.up(way.middle(skips[-1]), skips)  # (B, h, w, D)
        return head(cfg, h, x_t.shape[-1], True, "out")  # (B, h, w, C)
