"""The U-Net of TransFusion (Fucka et al., ECCV 2024), for its published weights.

It sees x_t, its own last mask and the row of each position, and says three things: what is
anomalous (`noise`), what would be normal (`mean`), and where (`mask_logits`). Its batch
normalisation is that of evaluation: the running statistics are parameters that no gradient
reaches. Read next: `unet.py`, whose residual blocks these are.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers import unet
from invad_jax.denoisers.layers import TimestepEmbedding, attention
from invad_jax.denoisers.unet import UNIFORM, ZEROS, ResBlock, Stage, conv3
from invad_jax.errors import UserError

FREQUENCY_SHIFT = 1
HEAD_GROUPS = 8
EPSILON = 1e-5


def build(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> TransFusionUNet:
    """Checks that the sizes fit; see `build_denoiser`."""
    unet.check_levels(cfg, latent_shape)
    if cfg.width % HEAD_GROUPS:
        raise UserError(f"denoiser.width={cfg.width}: {cfg.name} takes multiples of {HEAD_GROUPS}")
    return TransFusionUNet(cfg, latent_shape)


def stages(cfg: DenoiserConfig) -> tuple[list[Stage], list[Stage]]:
    """The way down, after the first convolution, and the way up, one layer a stage."""
    down: list[Stage] = []
    up: list[Stage] = []
    channels = [mult * cfg.width for mult in cfg.channel_mult]
    for level, out in enumerate(channels):
        attends = 2**level in cfg.attention_downsamplings
        layers = ("res", "attention") if attends else ("res",)
        down += [Stage(out, layers)] * cfg.num_res_blocks
        finer = channels[level - 1] if level else cfg.width
        level_up = [Stage(out, layers)] * cfg.num_res_blocks + [Stage(finer, layers)]
        if level < len(channels) - 1:
            down.append(Stage(out, ("down",)))
        if level > 0:
            level_up.append(Stage(finer, ("up",)))
        up = level_up + up
    return down, up


class Attention(nn.Module):
    """One head among all positions, nothing normalised before; its softmax is float32."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        B, h, w, C = x.shape
        tokens = x.reshape(B, h * w, C)
        qkv = nn.Dense(3 * C, dtype=self.dtype, kernel_init=UNIFORM, name="qkv")(tokens)
        q, k, v = (part[:, :, None] for part in jnp.split(qkv, 3, axis=-1))  # (B, N, 1, C) each
        out = attention(q, k, v).reshape(B, h, w, C)
        return x + nn.Dense(C, dtype=self.dtype, kernel_init=UNIFORM, name="proj")(out)


class TransFusionUNet(nn.Module):
    """(x_t (B, h, w, C), t (B,) or (1,), mask (B, h, w, 1) or None: empty) -> `noise` and `mean`
    (B, h, w, C), `mask_logits` (B, h, w, 1), float32."""

    SAYS = ("noise", "mean", "mask_logits")
    SEES = ("mask",)
    cfg: DenoiserConfig
    latent_shape: tuple[int, int, int]

    @nn.compact
    def __call__(
        self, x_t: jax.Array, t: jax.Array, mask: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.activations)
        height, C = x_t.shape[1], x_t.shape[3]
        cond = TimestepEmbedding(
            cfg.width, 4 * cfg.width, UNIFORM, dtype, FREQUENCY_SHIFT, name="time_embedding"
        )(t)  # (B or 1, 4 D)
        one = (*x_t.shape[:3], 1)
        rows = jnp.broadcast_to(jnp.sin(jnp.arange(height, dtype=jnp.float32))[:, None, None], one)
        mask = jnp.zeros(one) if mask is None else mask
        seen = jnp.concatenate([x_t, mask, rows], axis=-1)  # (B, h, w, C + 2)
        h = conv3(cfg.width, dtype, "conv_in")(seen)  # (B, h, w, D)
        down, up = stages(cfg)
        skips = [h]
        for i, stage in enumerate(down):
            h = self._run(stage, f"down_{i}", h, cond)
            skips.append(h)
        h = self._run(Stage(h.shape[-1], ("res", "attention")), "middle_0", h, cond)
        h = self._run(Stage(h.shape[-1], ("res",)), "middle_1", h, cond)
        for i, stage in enumerate(up):
            if stage.layers != ("up",):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = self._run(stage, f"up_{i}", h, cond)
        return self._heads(h, C)

    @nn.nowrap
    def _run(self, stage: Stage, place: str, h: jax.Array, cond: jax.Array) -> jax.Array:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.activations)
        res_block = nn.remat(ResBlock) if cfg.remat else ResBlock
        for layer in stage.layers:
            name = f"{place}_{layer}"
            if layer == "res":
                h = res_block(stage.channels, cfg, name=name)(h, cond)
            elif layer == "attention":
                h = Attention(dtype, name=name)(h)
            elif layer == "down":
                h = conv3(stage.channels, dtype, name, 2)(h)  # (B, h / 2, w / 2, C)
            else:
                h = nn.ConvTranspose(
                    stage.channels,
                    (4, 4),
                    (2, 2),
                    padding=[(2, 2)] * 2,
                    dtype=dtype,
                    kernel_init=UNIFORM,
                    name=name,
                )(h)  # (B, 2 h, 2 w, C)
        return h

    @nn.nowrap
    def _heads(self, h: jax.Array, channels: int) -> dict[str, jax.Array]:
        """Each from the last features (B, h, w, D), normalised in three ways."""
        float32 = jnp.dtype("float32")
        norm = nn.GroupNorm(
            HEAD_GROUPS, epsilon=EPSILON, dtype=float32, use_fast_variance=False, name="norm_noise"
        )
        of_batch = BatchNorm(name="norm_mask")
        inputs = {"noise": nn.silu(norm(h)), "mean": h, "mask_logits": nn.silu(of_batch(h))}
        return {
            name: conv3(
                1 if name == "mask_logits" else channels, float32, f"conv_{name}", kernel_init=ZEROS
            )(x)
            for name, x in inputs.items()
        }


class BatchNorm(nn.Module):
    """Each channel by its running statistics."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, C) -> the same, float32."""
        ones, zeros, shape = nn.initializers.ones, nn.initializers.zeros, x.shape[-1:]
        scale, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        mean = jax.lax.stop_gradient(self.param("mean", zeros, shape))
        variance = jax.lax.stop_gradient(self.param("var", ones, shape))
        factor = scale / jnp.sqrt(variance + EPSILON)
        mean, factor, bias = (jnp.reshape(a, (1, 1, 1, -1)) for a in (mean, factor, bias))
        return (x.astype(jnp.float32) - mean) * factor + bias
