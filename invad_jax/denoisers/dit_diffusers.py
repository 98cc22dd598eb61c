"""The DiT of the library diffusers (`DiTTransformer2DModel`), for its checkpoints.

It differs from `dit.py` in three ways: each block, and the last layer, has a timestep embedding of
its own; the lowest timestep frequency is 1 / 10000 itself; the second norm of a block has another
epsilon. A class is no input: the embedding of one, or of "no class", is part of the bias of each
timestep embedding (`converters/diffusers_dit.py`).
Read next: `dit.py`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers import dit
from invad_jax.denoisers.layers import (
    MLP_RATIO,
    Modulation,
    TimestepEmbedding,
    layer_norm,
    modulate,
    position_sinusoids,
    stacked,
)

FREQUENCY_SHIFT = 1


def build(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> DiTDiffusers:
    """Checks that the sizes fit; see `build_denoiser`."""
    dit.build(cfg, latent_shape)
    return DiTDiffusers(cfg, latent_shape)


def time_embedding(width: int, dtype: jnp.dtype) -> TimestepEmbedding:
    """One of the embeddings of t, (B or 1,) -> (B or 1, D)."""
    return TimestepEmbedding(
        dit.NUM_SINUSOIDS,
        width,
        nn.initializers.normal(0.02),
        dtype,
        FREQUENCY_SHIFT,
        name="time_embedding",
    )


class Block(nn.Module):
    """Attention and feed-forward with adaLN-Zero from t itself; at initialisation the identity."""

    cfg: DenoiserConfig

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
        """x (B, N, D), t (B or 1,) -> (x, None), the form that `nn.scan` wants."""
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.activations)
        cond = time_embedding(cfg.width, dtype)(t)  # (B or 1, D)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = Modulation(
            6, dtype, name="modulation"
        )(cond)  # (B or 1, 1, D) each
        h = modulate(layer_norm(affine=False)(x), shift_attn, scale_attn)
        x = x + gate_attn * dit.SelfAttention(cfg.num_heads, dtype, name="attention")(h)
        h = modulate(layer_norm(affine=False, epsilon=cfg.norm_eps)(x), shift_mlp, scale_mlp)
        x = x + gate_mlp * dit.FeedForward(MLP_RATIO * cfg.width, dtype, name="mlp")(h)
        return x, None


class DiTDiffusers(nn.Module):
    """(x_t (B, h, w, C), t (B,) or (1,)) -> eps (B, h, w, C) float32; zero at initialisation."""

    cfg: DenoiserConfig
    latent_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        cfg, (height, width, _) = self.cfg, self.latent_shape
        dtype = jnp.dtype(cfg.activations)
        tokens = dit.patchify(x_t, cfg.patch_size)  # (B, N, p * p * C)
        positions = position_sinusoids(
            height // cfg.patch_size, width // cfg.patch_size, cfg.width
        )  # (1, N, D)
        embedding = nn.Dense(cfg.width, dtype=dtype, kernel_init=dit.XAVIER, name="patch_embedding")
        x = embedding(tokens) + jnp.asarray(positions, dtype)  # (B, N, D)
        blocks = stacked(Block, cfg.depth, cfg.remat)
        x, _ = blocks(cfg, name="blocks")(x, t)  # (B, N, D)
        cond = time_embedding(cfg.width, dtype)(t)  # (B or 1, D)
        shift, scale = Modulation(2, dtype, name="modulation")(cond)  # (B or 1, 1, D) each
        x = modulate(layer_norm(affine=False)(x), shift, scale)
        # float32 whatever cfg.dtype is: after the last inversion step this is x_T itself.
        eps = nn.Dense(
            tokens.shape[-1], dtype=jnp.float32, kernel_init=nn.initializers.zeros, name="out"
        )(x)  # (B, N, p * p * C)
        return dit.unpatchify(eps, cfg.patch_size, self.latent_shape)  # (B, h, w, C)
