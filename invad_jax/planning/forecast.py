"""How long a training will take on this machine: its two programs run on zeros, and are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invad_jax.config import Config
from invad_jax.data import masks, preprocess
from invad_jax.encoders import describe_encoder
from invad_jax.inference.in_parts import in_parts
from invad_jax.planning.programs import trace_train_step
from invad_jax.runtime import processes
from invad_jax.runtime.sharding import batch_sharding, put, replicated, rounded_up

_RUNS = 5
PASSES = 3
"""Times that an image goes through the encoder or as much work: latents, coordinates, scores."""


class Forecast(NamedTuple):
    """What was measured."""

    compiling: float
    """Seconds until both programs were ready."""
    seconds_a_step: float
    seconds_an_image: float
    """Through the encoder."""
    steps: int

    def seconds(self, images: int) -> float:
        """About how long the training of so many images takes, with its calibration."""
        training = self.steps * self.seconds_a_step
        return self.compiling + training + PASSES * images * self.seconds_an_image


def forecast(config: Config, mesh: Mesh) -> Forecast:
    """Compiles and times what the training of a config runs; needs no weights and no images."""
    _, encoder = describe_encoder(
        config.encoder, config.data.image_size, config.tiling, masks.read_region(config.data)
    )
    begun = time.perf_counter()
    step = trace_train_step(config, encoder, mesh).lower().compile()
    (state, batch), _ = jax.tree.map(_zeros, step.args_info, step.input_shardings)
    encode = jax.jit(in_parts(encoder.apply, mesh))
    rows = rounded_up(config.eval.batch_size, mesh)
    images = put(preprocess.blank(rows, config.data), batch_sharding(mesh))
    variables = jax.tree.map(partial(_zeros, sharding=replicated(mesh)), encoder.variables)
    jax.block_until_ready(encode(variables, images))
    compiling = time.perf_counter() - begun

    def train() -> Any:
        nonlocal state
        state, scalars = step(state, batch)
        return scalars

    an_image = _median(lambda: encode(variables, images)) / rows
    return Forecast(compiling, _median(train), an_image, config.train.num_steps)


def _median(run: Callable[[], Any]) -> float:
    """Seconds of a run, after one that does not count."""
    jax.block_until_ready(run())
    return statistics.median(processes.seconds_of(run, 0.0, _RUNS))


def _zeros(abstract: Any, sharding: Any) -> jax.Array:
    """As it lies on the devices, of which none has to hold it whole."""
    if jnp.issubdtype(abstract.dtype, jax.dtypes.prng_key):
        return jax.device_put(jax.random.key(0), sharding)
    shape = tuple(abstract.shape)

    def part(index: Any) -> np.ndarray:
        return np.zeros(
            [len(range(n)[one]) for n, one in zip(shape, index, strict=True)], abstract.dtype
        )

    return jax.make_array_from_callback(shape, sharding, part)
