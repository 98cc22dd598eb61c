"""Two processes whose devices take turns in the mesh, as hosts do along the ring of a torus.

    launch/cpu_processes.sh 2 -m tests.multiprocess.rows FOLDER

Every image of the folder has one value, its number: so must its row, on either process. And what
both hold, of positions that take no part NaN, is put on all devices without being compared.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from invad_jax.config import DataConfig
from invad_jax.inference.images import run_on_images
from invad_jax.runtime import processes
from invad_jax.runtime.sharding import AXES, batch_sharding, put, replicated


def main(folder: Path) -> None:
    """Leaves with another status than 0 unless each row is with its own image."""
    processes.join(preemptible=False)
    devices = jax.devices()
    turns = np.array([*devices[::2], *devices[1::2]]).reshape(-1, 1, 1)
    mesh = Mesh(turns, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    values = jax.jit(lambda _, image: image[:, 0, 0, 0], out_shardings=replicated(mesh))
    paths = sorted(str(path) for path in folder.iterdir())
    seen = []
    for ids, rows in run_on_images(values, (), paths, DataConfig(image_size=8), len(devices), mesh):
        np.testing.assert_array_equal(rows, ids)
        seen += ids.tolist()
    assert sorted(seen) == list(range(len(paths)))
    held = put({"x": np.array([np.nan, 2.0])}, replicated(mesh))["x"]
    assert held.dtype == np.float32
    np.testing.assert_array_equal(jax.device_get(held), [np.nan, 2.0])
    assert put(held, replicated(mesh)) is held
    split = put(np.arange(8.0), batch_sharding(mesh))
    assert [len(shard.data) for shard in split.addressable_shards] == [2, 2]
    total = jax.jit(lambda x: x.sum(), out_shardings=replicated(mesh))(split)
    assert total == 28


if __name__ == "__main__":
    main(Path(sys.argv[1]))
