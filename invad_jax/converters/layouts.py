"""How torch stores the arrays of a layer, and how we do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from invad_jax.config import DenoiserConfig

Layout = Literal[
    "same", "linear", "pointwise", "unit_conv", "conv", "patch", "up_conv", "sines_first"
]
"""How torch stores a weight: a vector; (out, in) with no, one or two unit axes behind; (out, in,
kh, kw); the same, over the p x p positions of a patch; (in, out, kh, kw) of a transposed
convolution; (out, in) over sines and cosines, where ours are cosines and sines."""


class Link(NamedTuple):
    """One published tensor and its place among our parameters."""

    key: str
    path: str
    layout: Layout
    layer: int | None = None
    """Index on the leading axis of stacked blocks."""


Rows = tuple[tuple[str, str, Layout], ...]
"""(their layer, our layer, how its weight is stored)."""


def layer_links(theirs: str, ours: str, layout: Layout, layer: int | None = None) -> Iterator[Link]:
    """Weight and bias of one layer."""
    weight = "scale" if layout == "same" else "kernel"
    yield Link(f"net.{theirs}.weight", f"{ours}/{weight}", layout, layer)
    yield Link(f"net.{theirs}.bias", f"{ours}/bias", "same", layer)


def to_ours(tensor: np.ndarray, layout: Layout) -> np.ndarray:
    """Flax puts the output features last, torch first."""
    if layout in ("linear", "pointwise", "unit_conv"):
        return tensor.reshape(tensor.shape[:2]).T  # (out, in, ...) -> (in, out)
    if layout == "conv":
        return tensor.transpose(2, 3, 1, 0)  # (out, in, kh, kw) -> (kh, kw, in, out)
    if layout == "patch":
        return tensor.transpose(2, 3, 1, 0).reshape(-1, len(tensor))  # -> (p * p * in, out)
    if layout == "up_conv":  # torch's is the gradient of a convolution, whose kernel is mirrored
        return tensor[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)  # -> (kh, kw, in, out)
    if layout == "sines_first":
        return np.roll(tensor.T, tensor.shape[1] // 2, axis=0)
    return tensor


def to_published(array: Any, layout: Layout, cfg: DenoiserConfig) -> Any:
    """The inverse of `to_ours`, for NumPy and JAX arrays."""
    if layout == "linear":
        return array.T
    if layout == "pointwise":
        return array.T[:, :, None]
    if layout == "unit_conv":
        return array.T[:, :, None, None]
    if layout == "conv":
        return array.transpose(3, 2, 0, 1)
    if layout == "patch":
        p = cfg.patch_size
        return array.reshape(p, p, -1, array.shape[-1]).transpose(3, 2, 0, 1)
    if layout == "up_conv":
        return array.transpose(2, 3, 0, 1)[:, :, ::-1, ::-1]
    if layout == "sines_first":
        half = array.shape[0] // 2
        return array.T[:, [*range(half, 2 * half), *range(half)]]
    return array
