"""What the denoisers share: layers, timestep and position embeddings, adaLN, stacked blocks.

Read next: `partition.py` for where their parts lie, `dit.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.denoisers.partition import (
    IN_PLACE,
    QKV,
    Axes,
    constrain,
    mesh_sizes,
    split_over,
    stored_axes,
)

MLP_RATIO = 4
"""Hidden width of a transformer's feed-forward layers over its own (Vaswani et al. 2017)."""
MAX_PERIOD = 10_000.0
"""Longest wavelength over 2 pi, in timesteps or positions (Vaswani et al. 2017)."""


def timestep_sinusoids(t: jax.Array, dim: int, frequency_shift: int = 0) -> jax.Array:
    """Cosines, then sines of t * MAX_PERIOD^(-i / (dim / 2 - shift)), i = 0 .. dim / 2 - 1.

    Args:
      t: (B,), integer or float timesteps.
      dim: even number of sinusoids.
      frequency_shift: 1 lets the lowest frequency be 1 / MAX_PERIOD, as in Ho et al. (2020).

    Returns:
      (B, dim) float32.
    """
    half = dim // 2
    # float32 in this order, as published: t multiplies whatever a frequency is off by.
    index = np.arange(half, dtype=np.float32)
    span = np.float32(half - frequency_shift)
    frequencies = np.exp(np.float32(-math.log(MAX_PERIOD)) * index / span)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]  # (B, dim / 2)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)  # (B, dim)


def position_sinusoids(height: int, width: int, dim: int) -> np.ndarray:
    """Fixed 2-D position embedding (He et al. 2022): half the dimensions for the column, half for
    the row, each sines, then cosines.

    Args:
      height: rows of the grid.
      width: columns of the grid.
      dim: a multiple of 4.

    Returns:
      (1, height * width, dim) float32, positions in row-major order.
    """
    frequencies = MAX_PERIOD ** -(np.arange(dim // 4) / (dim / 4))
    rows, columns = np.divmod(np.arange(height * width), width)
    angles = [axis[:, None] * frequencies[None, :] for axis in (columns, rows)]  # (N, dim / 4) each
    parts = [f(angle) for angle in angles for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=-1)[None].astype(np.float32)  # (1, N, dim)


class Layout(NamedTuple):
    """How a kernel (in, *out) is split; None where no mesh is set."""

    used: Axes | None
    """In products: gathered over `fsdp`."""
    stored: Axes | None
    """Where its gradient is brought."""
    between: Axes | None = None
    """On the way from one to the other, if the compiler needs to be told."""


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x: jax.Array, kernel: jax.Array, layout: Layout) -> jax.Array:
    """x (..., in) of any float type times kernel (in, *out) float32: (..., *out), in the type of x.

    The gradient of the kernel is summed in float32, over tokens and over devices. Left to itself it
    would leave each device rounded to the type of x, and be summed over devices in that type.
    """
    return jnp.tensordot(x, _cast(kernel, x, layout), 1)  # (..., *out)


def _cast(kernel: jax.Array, x: jax.Array, layout: Layout) -> jax.Array:
    return constrain(constrain(kernel.astype(x.dtype), layout.between), layout.used)


def _matmul_forward(x: jax.Array, kernel: jax.Array, layout: Layout) -> tuple[jax.Array, Any]:
    return matmul(x, kernel, layout), (x, kernel)


def _matmul_backward(layout: Layout, saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    leading, trailing = tuple(range(x.ndim - 1)), tuple(range(x.ndim - 1, dy.ndim))
    outputs = tuple(range(1, kernel.ndim))
    dx = jnp.tensordot(dy, _cast(kernel, x, layout), (trailing, outputs))  # (..., in)
    dkernel = jnp.tensordot(x, dy, (leading, leading), preferred_element_type=jnp.float32)
    return dx, constrain(constrain(dkernel, layout.between), layout.stored)  # dkernel (in, *out)


matmul.defvjp(_matmul_forward, _matmul_backward)


class Dense(nn.Module):
    """`nn.Dense`, its parameters, output and names, with gradients that are summed in float32."""

    features: int | tuple[int, ...]
    """Outputs; of a tuple, such as (3, heads, D / heads), the parameters are stored flat."""
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer
    tensor: int | str | None = None
    """What `tensor` splits: -1 outputs, -2 inputs, `QKV` the second last of `features`; see
    `partition.IN_PLACE` for that."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., in) -> (..., *features)."""
        features = self.features if isinstance(self.features, tuple) else (self.features,)
        flat = (x.shape[-1], math.prod(features))
        kernel = self.param("kernel", self.kernel_init, flat)
        bias = self.param("bias", nn.initializers.zeros, flat[1:])
        layout = self._layout(flat, len(features))
        kernel = kernel.reshape(-1, *features)  # (in, *features)
        moved = layout.used if self.tensor == IN_PLACE else None
        rows = "data" if moved and x.shape[0] > 1 else None
        x = constrain(x, (rows, None)) if moved else x
        x = matmul(x.astype(self.dtype), kernel, layout)  # (..., *features)
        if moved and moved[-1]:
            x = constrain(constrain(x, (rows, moved[-1])), (rows, "fsdp"))
        bias = bias.reshape((1,) * (x.ndim - len(features)) + features)
        return (x.astype(jnp.float32) + bias).astype(self.dtype)

    @nn.nowrap
    def _layout(self, flat: tuple[int, int], num_outputs: int) -> Layout:
        sizes = mesh_sizes()
        if not sizes:
            return Layout(None, None)
        used: list[Any] = [None] * (1 + num_outputs)
        stored = stored_axes(flat, sizes, self.tensor)
        between = None
        if self.tensor == QKV:
            used[-2] = "tensor"
            between = ("fsdp", *used[1:]) if stored[0] else None
        elif self.tensor == IN_PLACE:
            used = list(stored)
        elif self.tensor is not None and stored[int(self.tensor)] == "tensor":
            used[int(self.tensor)] = "tensor"
        return Layout(tuple(used), stored + (None,) * (num_outputs - 1), between)


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v over tokens, (B, N, heads, d) each; its softmax is float32.

    Heads are brought to the front first: as XLA does it on CPUs otherwise, it takes 1.6 times as
    long (`jax.nn.dot_product_attention`).
    """
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))  # (B, heads, N, d) each
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits * q.shape[-1] ** -0.5).astype(q.dtype)  # (B, heads, N, N)
    return jnp.swapaxes(jnp.einsum("bhqk,bhkd->bhqd", weights, v), 1, 2)  # (B, N, heads, d)


class TimestepEmbedding(nn.Module):
    """Two-layer perceptron over the sinusoids of t; with `fixed_steps`, which of those t is."""

    num_sinusoids: int
    features: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype
    frequency_shift: int = 0

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        """(B,) -> (B, features)."""
        if self.has_variable("params", "timesteps"):
            return which_step(self.get_variable("params", "timesteps"), t)
        settings: dict[str, Any] = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        h = timestep_sinusoids(t, self.num_sinusoids, self.frequency_shift)  # (B, num_sinusoids)
        h = nn.silu(Dense(self.features, **settings, name="hidden")(h))  # (B, features)
        return Dense(self.features, **settings, name="out")(h)


class Modulation(nn.Module):
    """adaLN: `count` vectors (shift, scale, gate, ...) from the condition, all zero at first."""

    count: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, cond: jax.Array) -> list[jax.Array]:
        """(B, D) -> `count` times (B, 1, D), which broadcasts over tokens (and over a batch if
        B is 1); with `fixed_steps`, cond is (B,) int32."""
        if self.has_variable("params", "vectors"):
            table: jax.Array = self.get_variable("params", "vectors")  # (S, count * D)
            rows = jnp.take(table, cond, axis=0, mode="fill")  # (B, count * D)
            vectors = rows.astype(self.dtype)
        else:
            features = self.count * cond.shape[-1]
            layer = Dense(features, self.dtype, nn.initializers.zeros, IN_PLACE, name="dense")
            vectors = split_over(layer(nn.silu(cond)))  # (B, count * D)
        return jnp.split(vectors[:, None, :], self.count, axis=-1)


def which_step(timesteps: jax.Array, t: jax.Array) -> jax.Array:
    """The index of t (B,) among (S,) timesteps, int32; S, past the end, where it is none."""
    same = t[:, None] == timesteps[None, :]  # (B, S)
    return jnp.where(jnp.any(same, axis=1), jnp.argmax(same, axis=1), len(timesteps))


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """x (B, N, D) scaled and shifted by (B or 1, 1, D)."""
    return x * (1.0 + scale) + shift


def layer_norm(affine: bool, name: str | None = None, epsilon: float = 1e-6) -> nn.LayerNorm:
    """LayerNorm in float32 with the variance of torch (two passes)."""
    return nn.LayerNorm(
        epsilon=epsilon,
        use_scale=affine,
        use_bias=affine,
        dtype=jnp.float32,
        use_fast_variance=False,
        name=name,
    )


def stacked(block: type[nn.Module], depth: int, remat: bool) -> Callable[..., nn.Module]:
    """`depth` blocks as one `scan`, which compiles one of them; parameters have a leading axis.

    Args:
      block: maps (x, cond) to (x, None).
      depth: number of blocks.
      remat: recompute each block in the backward pass.
    """
    if remat:
        block = nn.remat(block, prevent_cse=False)  # inside a scan nothing can be merged anyway
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=depth,
    )
