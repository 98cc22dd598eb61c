"""Image files through a compiled function, on all the processes that hold its mesh.

Read next: `batches.py`, the same of arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from invad_jax.config import DataConfig
from invad_jax.data.pipeline import image_batches
from invad_jax.runtime.sharding import global_batch, replicated


def run_on_images(
    compiled: Any,
    variables: Any,
    paths: Sequence[str],
    data: DataConfig,
    batch_size: int,
    mesh: Mesh,
    skip_unreadable: bool = False,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Reads image files and yields what a function makes of them.

    Args:
      compiled: (variables, image (B, S, S, 3) uint8) -> a tree of arrays of B rows, replicated.
      variables: on the devices.
      paths: the same on all processes of the mesh.
      data: how files are read.
      batch_size: of all processes of the mesh together; a multiple of its devices.
      mesh: devices, of all processes or of this one.
      skip_unreadable: leaves out the index of an image that cannot be read, instead of failing.

    Yields:
      Indices into `paths`, (b,), and their rows as NumPy arrays; no padding.
    """
    this, count = (jax.process_index(), jax.process_count()) if mesh.is_multi_process else (0, 1)
    ahead = None  # its rows are computed while those before are looked at
    for batch in image_batches(paths, data, batch_size, this, count, skip_unreadable):
        ids = batch.pop("sample_id")
        rows = compiled(variables, global_batch(batch, mesh)["image"])
        if mesh.is_multi_process:  # rows lie as the devices do, and so must their numbers
            ids = _on_all(mesh)(global_batch({"sample_id": ids}, mesh)["sample_id"])
        if ahead:
            yield _known(*ahead)
        ahead = ids, rows
    if ahead:
        yield _known(*ahead)


@functools.cache
def _on_all(mesh: Mesh) -> Any:
    """What is split over the devices, whole on each."""
    return jax.jit(lambda rows: rows, out_shardings=replicated(mesh))


def _known(ids: Any, rows: Any) -> tuple[np.ndarray, Any]:
    """Fetches rows, and leaves out those that are no image."""
    numbers, rows = jax.device_get((ids, rows))
    known = numbers >= 0
    return numbers[known], jax.tree.map(lambda array: array[known], rows)
