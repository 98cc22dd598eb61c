"""The class of a product, where a network is told one: its number, and how it is inferred."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from invad_jax.config import DenoiserConfig
from invad_jax.errors import UserError
from invad_jax.scoring import Reference, choose_component

ORDER = {
    15: (
        *("capsule", "bottle", "grid", "leather", "metal_nut", "tile", "transistor", "zipper"),
        *("cable", "carpet", "hazelnut", "pill", "screw", "toothbrush", "wood"),
    ),
    12: (
        *("candle", "cashew", "fryum", "macaroni2", "pcb2", "pcb4", "capsules", "chewinggum"),
        *("macaroni1", "pcb1", "pcb3", "pipe_fryum"),
    ),
}
"""Of DeCo-Diff's published networks, by how many classes they know: MVTec AD, VisA."""


def class_numbers(cfg: DenoiserConfig, names: Sequence[str]) -> np.ndarray:
    """The class of each category, (K,) int32: as published, or for a network trained here the
    place of its name among them all.

    Args:
      cfg: of the network.
      names: of the categories, in alphabetical order.

    Raises:
      UserError: one that a published network does not know.
    """
    if cfg.name != "unet_deco_diff":
        return np.arange(len(names), dtype=np.int32)
    order = ORDER.get(num_classes(cfg), ())
    unknown = [name for name in names if name not in order]
    if unknown:
        raise UserError(
            f"data.categories: {unknown[0]} is none of the {num_classes(cfg)} classes that this "
            "network knows by name; at test inversion.label takes the number of one"
        )
    return np.array([order.index(name) for name in names], np.int32)


def num_classes(cfg: DenoiserConfig) -> int:
    """How many a network can be told; one trained here has a code for every number of an int32."""
    return cfg.context[0] if cfg.name == "unet_deco_diff" else np.iinfo(np.int32).max


def inferred(reference: Reference, x0: jax.Array) -> jax.Array:
    """The class (B,) int32 of the kind of normal images that x0 (B, h, w, C) is likeliest of."""
    assert reference.classes is not None
    assert reference.label is not None
    return reference.label[choose_component(reference.classes, x0[:, None])]
