"""A denoiser that is asked at a few known timesteps: what follows from t alone is computed once.

Shifts, scales and gates of an adaLN network depend on t and on nothing else, and inversion asks at
S timesteps. So their layers, a third of a DiT's parameters, become a table of S rows when a model
is loaded, and are neither held nor read when images are scored. Read next: `layers.py`, where the
table is looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers import dit, dit_diffusers, mlp
from invad_jax.denoisers.layers import Modulation, TimestepEmbedding

EMBEDDINGS = {
    "dit": (dit.NUM_SINUSOIDS, 0),
    "mlp": (mlp.NUM_SINUSOIDS, 0),
    "dit_diffusers": (dit.NUM_SINUSOIDS, dit_diffusers.FREQUENCY_SHIFT),
}
"""Networks that t enters by `Modulation` alone -> sinusoids, frequency shift of its embedding."""
FOLDED = ("modulation", "time_embedding")
"""Names of the layers that a table takes the place of."""


def tables(cfg: DenoiserConfig, timesteps: Sequence[int], params: Any) -> dict[str, Any]:
    """What takes the place of the layers named in `FOLDED`, for `fold`.

    Args:
      cfg: of the network.
      timesteps: S of them.
      params: as trained.

    Returns:
      A tree, part of one of parameters; empty where no timestep is asked, t enters elsewhere, or
      there are several networks.
    """
    if cfg.name not in EMBEDDINGS or not len(timesteps) or "blocks" not in params:
        return {}
    asked = jnp.asarray(np.asarray(timesteps, np.int32))
    blocks, shared = params["blocks"], params["time_embedding"]
    own = blocks.get("time_embedding")
    stacked = jax.vmap(partial(_table, cfg, asked), (0, None if own is None else 0))
    vectors = stacked(blocks["modulation"], shared if own is None else own)  # (depth, S, ...)
    replaced: dict[str, Any] = {"modulation": {"vectors": vectors}}
    if own is not None:
        each = jnp.broadcast_to(asked, (len(vectors), len(asked)))
        replaced["time_embedding"] = {"timesteps": each}
    return {
        "blocks": replaced,
        "time_embedding": {"timesteps": asked},
        "modulation": {"vectors": _table(cfg, asked, params["modulation"], shared)},
    }


def fold(params: Any, tables: dict[str, Any]) -> Any:
    """Parameters that know the timesteps of `tables` and no others: there the network says NaN."""
    if not tables:
        return params
    blocks = _without(params["blocks"]) | tables["blocks"]
    return _without(params) | tables | {"blocks": blocks}


def narrow(cfg: DenoiserConfig, params: Any) -> Any:
    """The same with each kernel in the type that it is multiplied in, which changes no number: in
    bfloat16 half the bytes to hold, and a quarter to move in each evaluation."""
    if not _narrows(cfg, params):
        return params

    def cast(path: Any, leaf: Any) -> Any:
        return leaf.astype(cfg.dtype) if _is_narrow(path) else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def on_host(cfg: DenoiserConfig, params: Any) -> Any:
    """The same parameters, those that `fold` and `narrow` take the place of in the host's
    memory."""
    narrows = _narrows(cfg, params)

    def moved(path: Any, leaf: Any) -> Any:
        replaced = set(_parts(path)) & set(FOLDED) or (narrows and _is_narrow(path))
        return jax.device_get(leaf) if replaced else leaf

    return jax.tree_util.tree_map_with_path(moved, params)


def _narrows(cfg: DenoiserConfig, params: Any) -> bool:
    return cfg.name in EMBEDDINGS and cfg.dtype == "bfloat16" and "blocks" in params


def _is_narrow(path: Any) -> bool:
    """Of a kernel: all but that of the last layer, whose products are float32."""
    parts = _parts(path)
    return parts[-1] == "kernel" and parts[0] != "out"


def _parts(path: Any) -> list[str]:
    return jax.tree_util.keystr(path, simple=True, separator="/").split("/")


def _table(cfg: DenoiserConfig, timesteps: jax.Array, layer: Any, embedding: Any) -> jax.Array:
    """What one `Modulation` says at each of the timesteps, (S, count * D)."""
    sinusoids, shift = EMBEDDINGS[cfg.name]
    dtype, zeros = jnp.dtype(cfg.activations), nn.initializers.zeros
    embed = TimestepEmbedding(sinusoids, cfg.width, zeros, dtype, shift)
    modulation = Modulation(layer["dense"]["bias"].shape[-1] // cfg.width, dtype)

    def at(t: jax.Array) -> jax.Array:
        cond: Any = embed.apply({"params": embedding}, t[None])  # (1, D)
        vectors: Any = modulation.apply({"params": layer}, cond)
        return jnp.concatenate(vectors, axis=-1)[0, 0]

    return jax.lax.map(at, timesteps)  # one by one: the sums of a batch of t would be rounded apart


def _without(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name not in FOLDED}
