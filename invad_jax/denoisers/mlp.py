"""A residual perceptron of each latent position alone (MAR's SimpleMLPAdaLN, Li et al. 2024).

Positions do not see each other: the ablation that shows what context is worth. Read next:
`layers.py`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers.layers import (
    Modulation,
    TimestepEmbedding,
    layer_norm,
    modulate,
    stacked,
)

XAVIER = nn.initializers.xavier_uniform()
NUM_SINUSOIDS = 256


def build(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> MLP:
    """Any size fits; see `build_denoiser`."""
    return MLP(cfg, latent_shape)


class MLPBlock(nn.Module):
    """Two-layer perceptron with adaLN-Zero: at initialisation the identity."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, cond: jax.Array) -> tuple[jax.Array, None]:
        """x (B, N, D), cond (B or 1, D) -> (x, None), the form that `nn.scan` wants."""
        D = x.shape[-1]
        shift, scale, gate = Modulation(3, self.dtype, name="modulation")(cond)  # (., 1, D) each
        h = modulate(layer_norm(affine=True, name="norm")(x), shift, scale)
        h = nn.Dense(D, dtype=self.dtype, kernel_init=XAVIER, name="hidden")(h)
        h = nn.Dense(D, dtype=self.dtype, kernel_init=XAVIER, name="out")(nn.silu(h))
        return x + gate * h, None


class MLP(nn.Module):
    """(x_t (B, h, w, C), t (B,) or (1,)) -> eps (B, h, w, C) float32; zero at initialisation."""

    cfg: DenoiserConfig
    latent_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        cfg, channels = self.cfg, x_t.shape[-1]
        dtype = jnp.dtype(cfg.activations)
        tokens = x_t.reshape(x_t.shape[0], -1, channels)  # (B, N, C)
        x = nn.Dense(cfg.width, dtype=dtype, kernel_init=XAVIER, name="embedding")(tokens)
        cond = TimestepEmbedding(
            NUM_SINUSOIDS, cfg.width, nn.initializers.normal(0.02), dtype, name="time_embedding"
        )(t)  # (B or 1, D)
        blocks = stacked(MLPBlock, cfg.depth, cfg.remat)
        x, _ = blocks(dtype, name="blocks")(x, cond)  # (B, N, D)
        shift, scale = Modulation(2, dtype, name="modulation")(cond)  # (B or 1, 1, D) each
        x = modulate(layer_norm(affine=True, name="norm")(x), shift, scale)
        # float32 whatever cfg.dtype is: after the last inversion step this is x_T itself.
        eps = nn.Dense(channels, dtype=jnp.float32, kernel_init=nn.initializers.zeros, name="out")(
            x
        )  # (B, N, C)
        return eps.reshape(x_t.shape)  # (B, h, w, C)
