"""How fast the compiled detector is, alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from invad_jax.data import preprocess
from invad_jax.inference.model import Model
from invad_jax.runtime import processes
from invad_jax.runtime.sharding import batch_sharding, put


def measure_speed(model: Model, paths: list[str], seconds: float = 2.0) -> dict[str, Any]:
    """Throughput in batches on all devices, and latency of one image alone on one device.

    Images are decoded and on the device before the clock starts; the compiler has run; every
    measurement ends with the results on the device being ready.
    """
    batch_size = model.batch_size
    some = itertools.islice(itertools.cycle(paths), batch_size)
    image = np.stack([preprocess.read_image(path, model.config.data) for path in some])
    on_mesh = put(image, batch_sharding(model.mesh))
    batch_times = _after_the_first(lambda: model.predict_batch(on_mesh), seconds)
    single_times = _after_the_first(_of_one_image(model, image[:1]), seconds)
    return {
        "batch_size": batch_size,
        "images_per_second": batch_size / float(np.median(batch_times)),
        "latency_ms_batch1": {
            "p50": 1e3 * float(np.percentile(single_times, 50)),
            "p95": 1e3 * float(np.percentile(single_times, 95)),
        },
    }


def _of_one_image(model: Model, image: np.ndarray) -> Callable[[], Any]:
    """Scores (1, H, W, 3) on the first device of this process.

    A batch that is spread over the mesh holds an image for every device: that is no latency.
    """
    if model.mesh.size == 1:
        on_mesh = put(image, batch_sharding(model.mesh))
        return lambda: model.predict_batch(on_mesh)
    variables = jax.tree.map(lambda array: array.addressable_data(0), model.variables)
    on_device = jax.device_put(image, jax.tree.leaves(variables)[0].device)
    compiled = jax.jit(model.detector.predict_without_maps)
    return lambda: compiled(variables, on_device)


def _after_the_first(run: Callable[[], Any], seconds: float) -> list[float]:
    jax.block_until_ready(run())
    return processes.seconds_of(run, seconds, fewest=3)
