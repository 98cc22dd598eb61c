"""DiT: a transformer over latent positions, modulated by the timestep (Peebles & Xie 2023).

The paper's default. Unconditional: the only condition is t. Read next: `layers.py` for its
parts, `../diffusion/loss.py` for its training.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers.layers import (
    MLP_RATIO,
    Dense,
    Modulation,
    TimestepEmbedding,
    attention,
    layer_norm,
    modulate,
    position_sinusoids,
    stacked,
)
from invad_jax.denoisers.partition import QKV, split_over
from invad_jax.errors import UserError

XAVIER = nn.initializers.xavier_uniform()
NUM_SINUSOIDS = 256


def build(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> DiT:
    """Checks that the sizes fit; see `build_denoiser`."""
    height, width, _ = latent_shape
    if height % cfg.patch_size or width % cfg.patch_size:
        raise UserError(
            f"denoiser.patch_size={cfg.patch_size}: must divide the latent grid {height} x {width}"
        )
    if cfg.width % cfg.num_heads:
        raise UserError(
            f"denoiser.num_heads={cfg.num_heads}: must divide denoiser.width={cfg.width}"
        )
    if cfg.width % 4:
        raise UserError(f"denoiser.width={cfg.width}: must be a multiple of 4 (2-D positions)")
    return DiT(cfg, latent_shape)


def patchify(x: jax.Array, patch_size: int) -> jax.Array:
    """(B, h, w, C) -> (B, N, p * p * C), row-major in the grid and within a patch."""
    B, h, w, C = x.shape
    p = patch_size
    x = x.reshape(B, h // p, p, w // p, p, C)
    x = x.transpose(0, 1, 3, 2, 4, 5)  # (B, h / p, w / p, p, p, C)
    return x.reshape(B, -1, p * p * C)  # (B, N, p * p * C)


def unpatchify(tokens: jax.Array, patch_size: int, latent_shape: tuple[int, int, int]) -> jax.Array:
    """The inverse of `patchify`: (B, N, p * p * C) -> (B, h, w, C)."""
    h, w, C = latent_shape
    p = patch_size
    x = tokens.reshape(-1, h // p, w // p, p, p, C)
    x = x.transpose(0, 1, 3, 2, 4, 5)  # (B, h / p, p, w / p, p, C)
    return x.reshape(-1, h, w, C)  # (B, h, w, C)


class SelfAttention(nn.Module):
    """Multi-head attention among all tokens; its softmax is float32."""

    num_heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, N, D) -> (B, N, D)."""
        B, N, D = x.shape
        features = (3, self.num_heads, D // self.num_heads)
        qkv = Dense(features, self.dtype, XAVIER, QKV, name="qkv")(x)  # (B, N, 3, heads, D / heads)
        q, k, v = jnp.moveaxis(split_over(qkv, 3), 2, 0)  # (B, N, heads, D / heads) each
        x = split_over(attention(q, k, v), 2).reshape(B, N, D)  # (B, N, D)
        return split_over(Dense(D, self.dtype, XAVIER, -2, name="proj")(x))


class FeedForward(nn.Module):
    """Two-layer perceptron of each token, tanh-approximated GELU."""

    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, N, D) -> (B, N, D)."""
        D = x.shape[-1]
        h = split_over(Dense(self.hidden, self.dtype, XAVIER, -1, name="hidden")(x), 2)
        h = nn.gelu(h, approximate=True)  # (B, N, hidden)
        return split_over(Dense(D, self.dtype, XAVIER, -2, name="out")(h))  # (B, N, D)


class DiTBlock(nn.Module):
    """Attention and feed-forward with adaLN-Zero: at initialisation the identity."""

    num_heads: int
    mlp_hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, cond: jax.Array) -> tuple[jax.Array, None]:
        """x (B, N, D), cond (B or 1, D) -> (x, None), the form that `nn.scan` wants."""
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = Modulation(
            6, self.dtype, name="modulation"
        )(cond)  # (B or 1, 1, D) each
        h = modulate(layer_norm(affine=False)(x), shift_attn, scale_attn)
        x = x + gate_attn * SelfAttention(self.num_heads, self.dtype, name="attention")(h)
        h = modulate(layer_norm(affine=False)(x), shift_mlp, scale_mlp)
        x = x + gate_mlp * FeedForward(self.mlp_hidden, self.dtype, name="mlp")(h)
        return x, None


class DiT(nn.Module):
    """(x_t (B, h, w, C), t (B,) or (1,)) -> eps (B, h, w, C) float32; zero at initialisation."""

    cfg: DenoiserConfig
    latent_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        cfg, (height, width, _) = self.cfg, self.latent_shape
        dtype = jnp.dtype(cfg.activations)
        tokens = patchify(x_t, cfg.patch_size)  # (B, N, p * p * C)
        patch_features = tokens.shape[-1]
        # A parameter, because published checkpoints carry it, but not trained.
        positions = self.param(
            "positions",
            lambda _: jnp.asarray(
                position_sinusoids(height // cfg.patch_size, width // cfg.patch_size, cfg.width)
            ),
        )  # (1, N, D)
        x = Dense(cfg.width, dtype, XAVIER, name="patch_embedding")(tokens)  # (B, N, D)
        x = x + jax.lax.stop_gradient(positions).astype(dtype)  # (B, N, D)
        cond = TimestepEmbedding(
            NUM_SINUSOIDS, cfg.width, nn.initializers.normal(0.02), dtype, name="time_embedding"
        )(t)  # (B or 1, D)
        blocks = stacked(DiTBlock, cfg.depth, cfg.remat)
        hidden = MLP_RATIO * cfg.width
        x, _ = blocks(cfg.num_heads, hidden, dtype, name="blocks")(x, cond)  # (B, N, D)
        shift, scale = Modulation(2, dtype, name="modulation")(cond)  # (B or 1, 1, D) each
        x = modulate(layer_norm(affine=False)(x), shift, scale)
        # float32 whatever cfg.dtype is: after the last inversion step this is x_T itself.
        eps = Dense(patch_features, jnp.dtype("float32"), nn.initializers.zeros, name="out")(
            x
        )  # (B, N, p * p * C)
        return unpatchify(eps, cfg.patch_size, self.latent_shape)  # (B, h, w, C)
