"""The training loop of `train`, and how much of its time lies within the compiled step."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

import grain
import numpy as np

from invad_jax.benchmarks import parts
from invad_jax.benchmarks.clock import alone, now
from invad_jax.benchmarks.parts import Part
from invad_jax.config import Config
from invad_jax.data import pipeline
from invad_jax.runtime.stop_signal import StopSignal
from invad_jax.training import loop
from invad_jax.training.denoiser import batch_shapes
from invad_jax.training.scalars import ScalarWriter

FIRST = loop.TIMED + 1
"""Step from which the clocks run: it is compiled, and the step before has ended."""


class _Stamped(grain.DatasetIterator):
    """An iterator that notes when it was asked for a batch."""

    def __init__(self, iterator: grain.DatasetIterator):
        super().__init__()
        self._iterator = iterator
        self.asked: list[tuple[float, ...]] = []

    def __next__(self) -> Any:
        self.asked.append(now())
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._iterator.set_state(state)


def loop_seconds(config: Config, shape: tuple[int, int, int], steps: int) -> tuple[float, float]:
    """Seconds of a step of the loop, by the wall and of the processor.

    The loop is the one of `train`, from latents in memory, logs and all; no checkpoint is saved.

    Args:
      config: as `train` takes it; its network is trained, of noise.
      shape: of a latent, (h, w, C).
      steps: on the clock.
    """
    training = parts.training_of(config, shape)
    last = FIRST + steps
    cfg = dataclasses.replace(config.train, num_steps=last, checkpoint_every=last)
    count = max(64, cfg.batch_size)
    rows = np.random.default_rng(1).standard_normal((count, *shape), np.float32)
    told = "label" in batch_shapes(config, 1, shape)
    label = np.zeros(count, np.int32) if told else None
    batches = _Stamped(pipeline.latent_batches(rows, cfg.seed, cfg.batch_size, label=label))
    ended: list[tuple[float, ...]] = []

    def save(state: Any, scalars: Any) -> None:  # of the last step, which is done by then
        ended.append(now())

    with tempfile.TemporaryDirectory() as folder, StopSignal() as stop:
        loop.run(
            training.create(),
            training.programs.step,
            batches,
            training.mesh,
            cfg,
            save,
            ScalarWriter(Path(folder), 0),
            stop,
        )
    if not ended or len(batches.asked) < last:
        raise KeyboardInterrupt  # asked to stop
    begun = batches.asked[FIRST]
    wall, processor, _ = (end - start for start, end in zip(begun, ended[-1], strict=True))
    return wall / steps, processor / steps


def measure(
    config: Config, shape: tuple[int, int, int], step: Part, seconds: float
) -> dict[str, Any]:
    """The loop beside the compiled step alone, which is timed before it and after it.

    Args:
      config: as for `loop_seconds`.
      shape: of a latent, (h, w, C).
      step: the compiled step; its state is freed before the loop makes its own.
      seconds: of the loop, about; at least ten steps.

    Returns:
      `steps_per_second` of the loop; `share_of_wall` and `share_of_processor`: what of its time a
      compiled step takes when nothing else is done. The latter is of a CPU that others use, too;
      `system_share`: what of the step's own processor time the system takes, to give it memory.
    """
    before = alone(step.run)
    step.free()
    steps = max(10, round(seconds / before[0]))
    wall, processor = loop_seconds(config, shape, steps)
    after = alone(step.run)
    taken = [statistics.mean(pair) for pair in zip(before, after, strict=True)]
    return {
        "steps": steps,
        "steps_per_second": round(1 / wall, 3),
        "share_of_wall": round(taken[0] / wall, 3),
        "share_of_processor": round(taken[1] / processor, 3),
        "system_share": round(taken[2] / taken[1], 3),
    }
