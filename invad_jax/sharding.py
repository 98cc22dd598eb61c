"""Which device holds what. The batch is split over all devices; parameters only with `fsdp`."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from invad_jax.config import MeshConfig
from invad_jax.errors import UserError

BATCH_AXES = ("data", "fsdp")


def make_mesh(cfg: MeshConfig) -> Mesh:
    """A data x fsdp mesh over all devices of all processes.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    count = jax.device_count()
    data = count // cfg.fsdp if cfg.data == -1 else cfg.data
    if data * cfg.fsdp != count:
        raise UserError(
            f"mesh.data={cfg.data} x mesh.fsdp={cfg.fsdp}: must multiply to {count} devices"
        )
    return jax.make_mesh((data, cfg.fsdp), BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split along the first dimension, over every device."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def state_sharding(abstract_state: Any, mesh: Mesh) -> Any:
    """A sharding per leaf: split over `fsdp` along its largest dimension that divides, if any.

    Args:
      abstract_state: pytree of arrays or `ShapeDtypeStruct`s.

    Returns:
      The same tree of `NamedSharding`s.
    """
    parts = mesh.shape["fsdp"]

    def leaf_sharding(leaf: Any) -> NamedSharding:
        divisible = [d for d, size in enumerate(leaf.shape) if size % parts == 0 and size >= parts]
        if parts == 1 or not divisible or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return replicated(mesh)
        axis = max(divisible, key=lambda d: leaf.shape[d])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(leaf_sharding, abstract_state)


def check_batch(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises UserError if the batch does not split evenly over the devices."""
    if batch_size % mesh.size:
        raise UserError(f"{name}={batch_size}: must be a multiple of the {mesh.size} devices")


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch as one global array, split over every device."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
