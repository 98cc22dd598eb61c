"""The compiled programs of a detector and its training, each with what it computes and takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from invad_jax.benchmarks.clock import Run
from invad_jax.benchmarks.subject import Subject
from invad_jax.config import Config, DataConfig, MeshConfig
from invad_jax.data import preprocess
from invad_jax.detector import DetectorVariables, LatentStats
from invad_jax.planning.flops import count_flops
from invad_jax.planning.hlo import Program
from invad_jax.runtime.sharding import (
    batch_sharding,
    make_mesh,
    put,
    replicated,
    rounded_up,
    train_batch_sharding,
)
from invad_jax.scoring import without_maps
from invad_jax.training import denoiser, loop
from invad_jax.training.step import TrainState


class Part(NamedTuple):
    """One compiled program with its arguments."""

    name: str
    batch: int
    run: Run
    compile_seconds: float
    flops: int
    """Of its products and convolutions, on all devices."""
    bytes_moved: int | None
    """Between memory and each device, as its program says; None where its program cannot be read,
    or is of a CPU, most of whose traffic its caches keep."""
    peak_bytes: int
    """Arguments, results and what lies between, on one device."""
    free: Callable[[], None] = lambda: None
    """Lets go of what it alone holds on the devices; the next run makes it again."""

    @property
    def key(self) -> str:
        """Name and batch size."""
        return f"{self.name}, batch {self.batch}"


def detector_parts(
    subject: Subject, batches: Sequence[int], only: str | None = None
) -> Iterator[Part]:
    """Encoder, denoiser, comparison and the whole, or only one of them, for each batch size.

    One image is on one device; other batch sizes are rounded up to a multiple of the devices.
    """
    one = make_mesh(MeshConfig(), jax.local_devices()[:1])
    for batch in batches:
        mesh = one if batch == 1 else subject.mesh
        variables = put(subject.variables, replicated(mesh))
        size = rounded_up(batch, mesh)
        for name, function, make in _functions(subject):
            if only in (None, name):
                yield compiled(name, size, function, variables, make(size), mesh)


def _functions(subject: Subject) -> Iterator[tuple[str, Callable[..., Any], Callable[[int], Any]]]:
    """(name, (variables, rows) -> results, number of rows -> rows)."""
    detector, latent = subject.detector, subject.latent_shape
    images = partial(images_of_noise, data=subject.config.data)

    def latents(count: int) -> np.ndarray:
        return np.random.default_rng(1).standard_normal((count, *latent), np.float32)

    def encoder(variables: DetectorVariables, image: jax.Array) -> jax.Array:
        return detector.encode(variables.encoder, image)

    def comparison(variables: DetectorVariables, latent: jax.Array) -> Any:
        silent = detector._replace(denoise=lambda params, x_t, t: x_t)
        return without_maps(silent.score_latents(variables, latent))

    yield "encoder", encoder, images
    if subject.timesteps:
        yield "denoiser", detector.walk, latents
    yield "comparison", comparison, latents
    yield "detector", detector.predict_without_maps, images


def images_of_noise(count: int, data: DataConfig) -> np.ndarray:
    """(count, S, S, 3 or 4) uint8, as `preprocess.read_image` gives images that fill the square."""
    images = preprocess.blank(count, data)
    rgb = images[..., :3]
    rgb[:] = np.random.default_rng(0).integers(0, 256, rgb.shape, np.uint8)
    return images


class Training(NamedTuple):
    """What `train` compiles, of a network of noise."""

    mesh: Mesh
    programs: loop.Programs
    create: Callable[[], TrainState]
    """The first state, on the mesh."""


def training_of(config: Config, shape: tuple[int, int, int]) -> Training:
    """The training of a config, whose precision is not decided by scoring.

    Args:
      config: as `train` takes it.
      shape: of a latent, (h, w, C).
    """
    mesh = make_mesh(config.mesh)
    programs = loop.programs(denoiser.trained(config, shape), mesh)
    channels = np.zeros(shape[-1:], np.float32)
    frozen = LatentStats(channels, channels + 1)  # type: ignore[arg-type]
    return Training(mesh, programs, partial(programs.create, jax.random.key(0), frozen))


def train_part(config: Config, shape: tuple[int, int, int]) -> Part:
    """One optimiser step from latents, as `train` compiles it; see `training_of`."""
    training = training_of(config, shape)
    shapes = denoiser.batch_shapes(config, config.train.batch_size, shape)
    batch = {name: np.zeros(rows.shape, rows.dtype) for name, rows in shapes.items()}
    latent = np.random.default_rng(1).standard_normal(batch["latent"].shape, np.float32)
    rows = put(batch | {"latent": latent}, train_batch_sharding(training.mesh))
    traced = training.programs.step.trace(training.programs.abstract, rows)
    program, part = _compile("train step", config.train.batch_size, traced)
    held: list[TrainState] = []

    def run() -> None:
        state, scalars = program(held.pop() if held else training.create(), rows)
        held.append(state)
        jax.block_until_ready(scalars)

    return part._replace(run=run, free=held.clear)


def compiled(
    name: str, batch: int, function: Callable[..., Any], variables: Any, rows: Any, mesh: Mesh
) -> Part:
    """A function of (variables, rows) with rows split over a mesh."""
    shardings = (replicated(mesh), batch_sharding(mesh))
    on_mesh = put(rows, batch_sharding(mesh))
    jitted = jax.jit(function, in_shardings=shardings, out_shardings=replicated(mesh))
    program, part = _compile(name, batch, jitted.trace(variables, on_mesh))
    return part._replace(run=partial(_wait, program, variables, on_mesh))


def _wait(program: Any, *arguments: Any) -> None:
    jax.block_until_ready(program(*arguments))


def _compile(name: str, batch: int, traced: Any) -> tuple[Any, Part]:
    start = time.perf_counter()
    program = traced.lower().compile()
    seconds, memory = time.perf_counter() - start, program.memory_analysis()
    peak = (
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
    part = Part(
        name, batch, lambda: None, seconds, count_flops(traced.jaxpr), _moved(program), peak
    )
    return program, part


def _moved(program: Any) -> int | None:
    if jax.default_backend() == "cpu":
        return None
    try:
        return Program(program.as_text()).memory_bytes()
    except (AssertionError, KeyError, ValueError):  # written as no other program was so far
        return None
