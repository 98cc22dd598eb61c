"""Which part of a layer lies on which device, for the layers and for `runtime/sharding.py` alike.

A mesh has the axes `data`, `fsdp` and `tensor`. Rows of a batch are split over the first two. What
is stored of a kernel is split over `fsdp`, and gathered where it is used; over `tensor` it stays
split. Without a mesh, as in scoring, nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

BATCH_AXES = ("data", "fsdp")

Axes = tuple[Any, ...]
"""Per dimension: a mesh axis, a tuple of them, or None."""

QKV = "qkv"
"""In the place of a dimension: the outputs are q, k, v, then heads, so no contiguous part of them
is a set of heads. What is stored is split by inputs, over `fsdp` and `tensor`."""

IN_PLACE = "in_place"
"""In the place of a dimension: the kernel meets one row an image, not one a token, so that it is
cheaper to bring the rows to it. It stays split by outputs, over `fsdp` and `tensor`."""

TENSOR_DIMENSIONS: dict[str, int | str] = {
    "blocks/attention/qkv/kernel": QKV,
    "blocks/attention/proj/kernel": -2,
    "blocks/mlp/hidden/kernel": -1,
    "blocks/mlp/hidden/bias": -1,
    "blocks/mlp/out/kernel": -2,
    "modulation/dense/kernel": IN_PLACE,
}
"""End of a parameter's path -> the dimension that `tensor` splits, as `dit.py` tells its layers:
the outputs of one layer, the inputs of the next, so that what lies between stays split."""


def stored_axes(shape: Sequence[int], sizes: Mapping[str, int], tensor: int | str | None) -> Axes:
    """How an array is stored: `fsdp` takes the largest dimension that is left and divides.

    Args:
      shape: of one layer's array.
      sizes: of the mesh's axes.
      tensor: the dimension that `tensor` splits, counted from the end; `QKV`; `IN_PLACE`; or None.

    >>> stored_axes((8, 32), {"fsdp": 4, "tensor": 2}, -1)
    ('fsdp', 'tensor')
    >>> stored_axes((8, 32), {"fsdp": 4, "tensor": 1}, None)
    (None, 'fsdp')
    """
    axes: list[Any] = [None] * len(shape)
    if isinstance(tensor, str):
        dimension = 0 if tensor == QKV else -1
        if shape[dimension] % (sizes["fsdp"] * sizes["tensor"]) == 0:
            axes[dimension] = ("fsdp", "tensor")
        return tuple(axes)
    if isinstance(tensor, int) and sizes["tensor"] > 1 and shape[tensor] % sizes["tensor"] == 0:
        axes[tensor] = "tensor"
    divisible = [d for d, size in enumerate(shape) if size % sizes["fsdp"] == 0 and not axes[d]]
    if len(shape) > 1 and sizes["fsdp"] > 1 and divisible:  # vectors stay whole: a message each
        axes[max(divisible, key=lambda d: shape[d])] = "fsdp"
    return tuple(axes)


def mesh_sizes() -> Mapping[str, int]:
    """Of the axes of the mesh that is set; empty when none is."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return sizes if "tensor" in sizes else {}


def constrain(x: jax.Array, axes: Sequence[Any] | None) -> jax.Array:
    """x split as told, while a mesh is set."""
    if axes is None or not mesh_sizes():
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def split_over(x: jax.Array, tensor: int | None = None) -> jax.Array:
    """Says where activations lie.

    Args:
      x: (B, ...), its rows split over `BATCH_AXES` unless B is 1.
      tensor: the dimension split over `tensor`; None: every device of a group has all of it.
    """
    if not mesh_sizes():
        return x
    axes: list[Any] = [BATCH_AXES if x.shape[0] > 1 else None] + [None] * (x.ndim - 1)
    if tensor is not None:
        axes[tensor] = "tensor"
    return constrain(x, axes)
