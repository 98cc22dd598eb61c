"""Any number of rows through a compiled function that takes batches of one size."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from invad_jax.errors import UserError
from invad_jax.runtime.sharding import batch_sharding, put


def fitting(count: int, batch_size: int, num_devices: int = 1) -> int:
    """The batch size that `count` rows are compiled for: few sizes, and few rows of padding.

    A batch size for many rows, and for fewer one of a few: a row a device, and four times as many
    each time. So one image is not padded to sixteen, and no count is compiled for by itself.

    Args:
      count: rows that are to be looked at, at least 1.
      batch_size: the largest, a multiple of the devices.
      num_devices: of the mesh.
    """
    size = num_devices
    while size < min(count, batch_size):
        size *= 4
    return min(size, batch_size)


def in_batches(compiled: Any, variables: Any, batch_size: int, mesh: Mesh, *inputs: Any) -> Any:
    """Feeds rows in batches of one size, so that one compilation serves all.

    Args:
      compiled: (variables, *rows of each input) -> a tree of arrays with a row each, replicated.
      variables: on the devices.
      batch_size: a multiple of the devices.
      mesh: devices.
      *inputs: (N, ...) NumPy arrays.

    Returns:
      The tree, as NumPy arrays of N rows.

    Raises:
      UserError: N is 0.
    """
    count = len(inputs[0])
    if not count:
        raise UserError("nothing to score: the batch is empty")
    parts = []
    for start in range(0, count, batch_size):
        rows = [np.asarray(array[start : start + batch_size]) for array in inputs]
        padded = put([_padded(array, batch_size) for array in rows], batch_sharding(mesh))
        parts.append(jax.device_get(compiled(variables, *padded)))
    whole = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    return jax.tree.map(lambda array: array[:count], whole)  # without the padding


def _padded(array: np.ndarray, count: int) -> np.ndarray:
    """With rows of zeros behind, `count` rows in all."""
    return np.pad(array, [(0, count - len(array))] + [(0, 0)] * (array.ndim - 1))
