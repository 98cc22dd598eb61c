"""How fast the compiled detector is, alone."""

from __future__ import annotations

import itertools
import time
from typing import Any

import jax
import numpy as np

from invad_jax.data import preprocess
from invad_jax.inference.model import Model
from invad_jax.runtime import processes
from invad_jax.runtime.sharding import batch_sharding


def measure_speed(model: Model, paths: list[str], seconds: float = 2.0) -> dict[str, Any]:
    """Throughput in batches and latency of single images, of the compiled detector alone.

    Images are decoded and on the device before the clock starts; the compiler has run; every
    measurement ends with the results on the device being ready.
    """
    batch_size = model.batch_size
    some = itertools.islice(itertools.cycle(paths), batch_size)
    image = np.stack([preprocess.read_image(path, model.config.data) for path in some])
    batch_times = _time(model, image, seconds)
    single_times = _time(model, image[: model.mesh.size], seconds)
    return {
        "batch_size": batch_size,
        "images_per_second": batch_size / float(np.median(batch_times)),
        "latency_ms_batch1": {
            "p50": 1e3 * float(np.percentile(single_times, 50)),
            "p95": 1e3 * float(np.percentile(single_times, 95)),
        },
    }


def _time(model: Model, image: np.ndarray, seconds: float) -> list[float]:
    on_device = jax.device_put(image, batch_sharding(model.mesh))
    jax.block_until_ready(model.predict_batch(on_device))
    times: list[float] = []
    while processes.primary_says(sum(times) < seconds or len(times) < 3):  # all run equally often
        start = time.perf_counter()
        jax.block_until_ready(model.predict_batch(on_device))
        times.append(time.perf_counter() - start)
    return times
