"""The programs that `train` and `eval` would compile, traced for any devices, and counted.

Read next: `hlo.py` and `flops.py`, the counting.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from invad_jax.config import Config
from invad_jax.data import preprocess
from invad_jax.encoders import Encoder
from invad_jax.inference import unlearnt
from invad_jax.inference.assembly import abstract_params
from invad_jax.inference.in_parts import at_once
from invad_jax.planning.flops import count_flops
from invad_jax.planning.hlo import Program
from invad_jax.runtime.sharding import batch_sharding, replicated, train_batch_sharding
from invad_jax.training import denoiser, loop

Row = dict[str, Any]
"""One program on one topology; bytes and operations are those of one device in one run."""


def weak(config: Config, batch_per_device: int | None, devices: int) -> Config:
    """The config with a batch that grows with the devices, if asked for."""
    if batch_per_device is None:
        return config
    batch = batch_per_device * devices
    return dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, batch_size=batch),
        eval=dataclasses.replace(config.eval, batch_size=batch),
    )


def detector_batch(config: Config, encoder: Encoder, mesh: Mesh) -> int:
    """The images of a compiled call that scores."""
    platform = mesh.devices.flat[0].platform
    return at_once(config, encoder.latent_shape[:2], mesh.size, platform)


def _abstract(shape: Sequence[int], dtype: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)


def trace_train_step(config: Config, encoder: Encoder, mesh: Mesh) -> Any:
    """The step that `train` would compile, traced for a mesh of any devices."""
    shape, where = encoder.latent_shape, train_batch_sharding(mesh)
    shapes = denoiser.batch_shapes(config, config.train.batch_size, shape)
    batch = {name: _abstract(a.shape, a.dtype, where) for name, a in shapes.items()}
    programs = loop.programs(denoiser.trained(config, shape), mesh)
    return programs.step.trace(programs.abstract, batch)


def trace_detector(config: Config, encoder: Encoder, mesh: Mesh) -> Any:
    """The detector that `eval` would compile: parameters on every device, the batch split.

    What would be learnt of normal images is not known here: see `unlearnt`.
    """
    rows, image = detector_batch(config, encoder, mesh), preprocess.blank(1, config.data)
    config = unlearnt.config_of(config, mesh)
    shape = encoder.latent_shape
    variables_of = partial(unlearnt.variables_of, config, C=shape[-1])
    params = abstract_params(config, shape)
    variables = jax.eval_shape(variables_of, encoder.variables, params)
    arguments = (
        jax.tree.map(lambda a: _abstract(a.shape, a.dtype, replicated(mesh)), variables),
        _abstract((rows, *image.shape[1:]), image.dtype, batch_sharding(mesh)),
    )
    predict = unlearnt.detector_of(config, encoder, mesh).predict_without_maps
    return jax.jit(predict, out_shardings=replicated(mesh)).trace(*arguments)


def measure(traced: Any) -> Row:
    """Compiles a traced program and counts; `needs` alone if it is too large to compile."""
    flops = count_flops(traced.jaxpr)
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", str(error))
        if used is None:
            raise
        scale = dict(zip("KMGT", (2**10, 2**20, 2**30, 2**40), strict=True))
        return {"flops_all_devices": flops, "bytes": float(used[1]) * scale[used[2]]}
    memory, program = compiled.memory_analysis(), Program(compiled.as_text())
    return {
        "flops_all_devices": flops,
        "arguments": memory.argument_size_in_bytes,
        "bytes": memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        "memory_traffic": program.memory_bytes(),
        "collectives": {k: t._asdict() for k, t in program.collectives().items()},
    }
