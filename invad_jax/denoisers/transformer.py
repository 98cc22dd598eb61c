"""The spatial transformer of latent diffusion (Rombach et al. 2022): attention among positions,
attention to a context, feed-forward. Read next: `unet_ldm.py`."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from invad_jax.denoisers.layers import attention, layer_norm
from invad_jax.denoisers.unet import UNIFORM, ZEROS

NORM_EPS, TOKEN_NORM_EPS = 1e-6, 1e-5
"""Of the group normalisation in front, and of those of the tokens."""
NORM_GROUPS = 32
EXPANSION = 4
"""Hidden over outer width of the feed-forward layer."""


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to a context; only the output has a bias."""

    heads: int
    head_channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """x (B, N, D), context (B or 1, M, E) -> (B or 1, N or 1, D).

        The softmax over one token is 1 whatever x is, so that the answer to M = 1 is the same for
        all positions; what it does not depend on is left out by the compiler.
        """
        B, _, D = x.shape
        settings: dict[str, Any] = {"dtype": self.dtype, "kernel_init": UNIFORM}
        inner = self.heads * self.head_channels

        def project(tokens: jax.Array, name: str) -> jax.Array:
            out = nn.Dense(inner, use_bias=False, **settings, name=name)(tokens)
            return out.reshape(*tokens.shape[:2], self.heads, self.head_channels)

        q, k, v = project(x, "q"), project(context, "k"), project(context, "v")
        if context.shape[1] > 1:
            k, v = (jnp.broadcast_to(a, (B, *a.shape[1:])) for a in (k, v))
            v = attention(q, k, v)  # (B, N, heads, head_channels)
        return nn.Dense(D, **settings, name="out")(v.reshape(*v.shape[:2], inner))


class Transformer(nn.Module):
    """One block of it around a residual connection; at initialisation the identity."""

    heads: int
    head_channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """x (B, h, w, C), context (B or 1, M, E) -> (B, h, w, C)."""
        B, h, w, C = x.shape
        settings: dict[str, Any] = {"dtype": self.dtype, "kernel_init": UNIFORM}
        of_heads = (self.heads, self.head_channels, self.dtype)
        inner = self.heads * self.head_channels
        norm = nn.GroupNorm(
            NORM_GROUPS, epsilon=NORM_EPS, dtype=jnp.float32, use_fast_variance=False, name="norm"
        )
        tokens = nn.Dense(inner, **settings, name="proj_in")(norm(x).reshape(B, h * w, C))
        norm_1, norm_2, norm_3 = (layer_norm(True, f"norm{i}", TOKEN_NORM_EPS) for i in (1, 2, 3))
        y = norm_1(tokens)  # (B, N, D)
        tokens += CrossAttention(*of_heads, name="self_attention")(y, y)
        tokens += CrossAttention(*of_heads, name="attention")(norm_2(tokens), context)
        y = nn.Dense(2 * EXPANSION * inner, **settings, name="hidden")(norm_3(tokens))
        value, gate = jnp.split(y, 2, axis=-1)  # (B, N, 4 D) each
        y = value * nn.gelu(gate, approximate=False)
        tokens += nn.Dense(inner, **settings, name="out")(y)
        out = nn.Dense(C, dtype=self.dtype, kernel_init=ZEROS, name="proj_out")(tokens)
        return x + out.reshape(B, h, w, C)
