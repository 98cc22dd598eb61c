"""Which device holds what.

Three axes. `data` and `fsdp` split a training batch; `fsdp` also splits everything that is kept of
a parameter; `tensor` splits the layers of the DiT, heads and hidden units, as Megatron-LM does
(Shoeybi et al. 2019). Scoring splits its batch over all of them. Of several TPU slices, which the
network of the data centre joins, each has all of `fsdp` and `tensor`: between them only `data`
speaks, once a step.

Read next: `denoisers/partition.py`, what the layers know of it; `training/loop.py`, where it is
used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from invad_jax.config import MeshConfig, TrainConfig
from invad_jax.denoisers.partition import BATCH_AXES, TENSOR_DIMENSIONS, stored_axes
from invad_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(cfg: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A data x fsdp x tensor mesh over all devices of all processes, or over those given.

    Raises:
      UserError: the axes do not multiply to the number of devices of a slice, or a group that
        shares layers would reach over processes.
    """
    devices = list(jax.devices() if devices is None else devices)
    types = (AxisType.Auto,) * len(AXES)
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:
        slices.setdefault(_slice_of(device), []).append(device)
    if len(slices) > 1:
        parts = [make_mesh(cfg, slices[index]).devices for index in sorted(slices)]
        return Mesh(np.concatenate(parts), AXES, axis_types=types)  # data is the first axis
    shape = _mesh_shape(cfg, len(devices))
    # In the order of the processes, whatever the torus: each feeds the rows of its own devices, so
    # that a batch is the same on any number of them, and a group that shares layers leaves none.
    devices.sort(key=lambda device: (device.process_index, device.id))
    local = sum(device.process_index == devices[0].process_index for device in devices)
    if local % cfg.tensor:
        raise UserError(
            f"mesh.tensor={cfg.tensor}: must divide the {local} devices of each process"
        )
    return Mesh(np.array(devices).reshape(shape), AXES, axis_types=types)


def _slice_of(device: jax.Device) -> int:
    """The TPU slice of a device; of GPUs the index is that of the host, and says nothing."""
    return getattr(device, "slice_index", 0) if device.platform == "tpu" else 0


def _mesh_shape(cfg: MeshConfig, count: int) -> tuple[int, int, int]:
    """The sizes of the axes; `data` takes the devices that the others leave."""
    if cfg.fsdp < -1 or cfg.fsdp == 0:
        raise UserError(f"mesh.fsdp={cfg.fsdp}: must be positive, or -1 (all devices)")
    shared = count // cfg.tensor if cfg.fsdp == -1 else cfg.fsdp
    if not shared or count % (shared * cfg.tensor):
        raise UserError(
            f"mesh.fsdp={cfg.fsdp} x mesh.tensor={cfg.tensor}: must divide the {count} devices"
        )
    return count // (shared * cfg.tensor), shared, cfg.tensor


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split along the first dimension, over every device: scoring, with parameters on each."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def train_batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split along the first dimension; devices that share layers have the same rows."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays that every process holds whole, on the devices of all; nothing travels.

    To devices of several processes `jax.device_put` sends an array to all of them first, to compare
    it: as many copies on each device, and NaN, of positions that take no part, is never equal.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(jax.tree.map(_of_this_process, tree), sharding)

    def whole(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        host = np.asarray(leaf)
        host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(whole, tree)


def _of_this_process(leaf: Any) -> Any:
    """What is whole on the devices of several processes, as this one has it."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and leaf.is_fully_replicated:
        return leaf.addressable_data(0)
    return leaf


def rounded_up(batch_size: int, mesh: Mesh) -> int:
    """The batch size as a multiple of the devices."""
    return -(-batch_size // mesh.size) * mesh.size


def state_sharding(abstract_state: Any, mesh: Mesh) -> Any:
    """A sharding per leaf: `tensor` by `TENSOR_DIMENSIONS`, `fsdp` by `partition.stored_axes`.

    What the optimiser keeps of a parameter has the parameter's path at the end of its own, and so
    its sharding.

    Args:
      abstract_state: pytree of arrays or `ShapeDtypeStruct`s.

    Returns:
      The same tree of `NamedSharding`s.
    """

    def leaf_sharding(path: Any, leaf: Any) -> NamedSharding:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return replicated(mesh)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, _spec(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(leaf_sharding, abstract_state)


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    tensor = next((d for end, d in TENSOR_DIMENSIONS.items() if name.endswith(end)), None)
    stacked = "blocks/" in name and len(shape) > 1  # the leading axis counts layers
    axes = [None] * stacked + list(stored_axes(shape[stacked:], mesh.shape, tensor))
    while axes and axes[-1] is None:
        axes.pop()
    return PartitionSpec(*axes)


def check_batch(cfg: TrainConfig, mesh: Mesh) -> None:
    """Raises UserError if a training batch does not split evenly over the devices."""
    batch_size, grad_accumulation = cfg.batch_size, cfg.grad_accumulation
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (ways * grad_accumulation):
        over = f"{ways} devices" if mesh.shape["tensor"] == 1 else f"{ways} groups of devices"
        parts = f" x train.grad_accumulation={grad_accumulation}" if grad_accumulation > 1 else ""
        hint = "; mesh.tensor takes more devices than images" if batch_size < ways else ""
        raise UserError(
            f"train.batch_size={batch_size}: must be a multiple of the {over}{parts}{hint}"
        )


def global_batch(
    batch: dict[str, np.ndarray], mesh: Mesh, sharding: NamedSharding | None = None
) -> dict[str, jax.Array]:
    """This process's rows of a batch as one global array, split over every device, or as given."""
    sharding = sharding or batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
