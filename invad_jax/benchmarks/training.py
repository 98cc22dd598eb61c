"""The training loop of `train`, and how much of its time lies within the compiled step."""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax.numpy as jnp
import numpy as np

from invad_jax.benchmarks.clock import Run
from invad_jax.benchmarks.subject import Subject
from invad_jax.data import pipeline
from invad_jax.detector import LatentStats
from invad_jax.inference.assembly import init_params
from invad_jax.runtime.sharding import make_mesh
from invad_jax.runtime.workdir import Workdir
from invad_jax.training import loop
from invad_jax.training.denoiser import batch_shapes, denoiser_loss

FIRST = loop.TIMED + 1
"""Step from which the clocks run: it is compiled, and the step before has ended."""


class _Stamped(grain.DatasetIterator):
    """An iterator that notes when it was asked for a batch, and when it was saved."""

    def __init__(self, iterator: grain.DatasetIterator):
        super().__init__()
        self._iterator = iterator
        self.asked: list[tuple[float, ...]] = []
        self.saved: tuple[float, ...] | None = None

    def __next__(self) -> Any:
        self.asked.append(_now())
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        self.saved = self.saved or _now()
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._iterator.set_state(state)


def _now() -> tuple[float, float, float]:
    """Seconds by the wall, of all threads of this process, and of the system for it."""
    return time.perf_counter(), time.process_time(), os.times().system


def loop_seconds(subject: Subject, steps: int) -> tuple[float, float]:
    """Seconds of a step of the loop, by the wall and of the processor.

    The loop is the one of `train`, from latents in memory, logs and all; its only checkpoint, at
    the end, is left out.

    Args:
      subject: whose network is trained, of noise.
      steps: on the clock.
    """
    config, shape = subject.config, subject.latent_shape
    cfg = dataclasses.replace(
        config.train, num_steps=FIRST + steps, checkpoint_every=FIRST + steps, warmup_steps=1
    )
    count = max(64, cfg.batch_size)
    rows = np.random.default_rng(1).standard_normal((count, *shape), np.float32)
    told = "label" in batch_shapes(config, 1, shape)
    label = np.zeros(count, np.int32) if told else None
    batches = _Stamped(pipeline.latent_batches(rows, cfg.seed, cfg.batch_size, label=label))
    channels = jnp.zeros(shape[-1])
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(
            cfg=cfg,
            init_params=partial(init_params, config, shape),
            frozen=LatentStats(channels, channels + 1),
            loss_fn=denoiser_loss(config),
            iterator=batches,
            mesh=make_mesh(config.mesh),
            workdir=Workdir(Path(folder) / "run"),
            meta={},
        )
    assert batches.saved, "the last step is saved"
    begun = batches.asked[FIRST]
    wall, processor, _ = (end - start for start, end in zip(begun, batches.saved, strict=True))
    return wall / steps, processor / steps


def measure(subject: Subject, step: Run, seconds: float) -> dict[str, Any]:
    """The loop beside the compiled step alone, which is timed before it and after it.

    Args:
      subject: as for `loop_seconds`.
      step: the compiled step, on a batch that is on the device.
      seconds: of the loop, about; at least ten steps.

    Returns:
      `steps_per_second` of the loop; `share_of_wall` and `share_of_processor`: what of its time a
      compiled step takes when nothing else is done. The latter is of a CPU that others use, too;
      `system_share`: what of the step's own processor time the system takes, to give it memory.
    """
    before = _alone(step)
    steps = max(10, round(seconds / before[0]))
    wall, processor = loop_seconds(subject, steps)
    alone = [statistics.mean(pair) for pair in zip(before, _alone(step), strict=True)]
    return {
        "steps": steps,
        "steps_per_second": round(1 / wall, 3),
        "share_of_wall": round(alone[0] / wall, 3),
        "share_of_processor": round(alone[1] / processor, 3),
        "system_share": round(alone[2] / alone[1], 3),
    }


def _alone(step: Run, runs: int = 10) -> list[float]:
    """Seconds of one run, as `_now` has them."""
    step()
    start = _now()
    for _ in range(runs):
        step()
    return [(end - begun) / runs for begun, end in zip(start, _now(), strict=True)]
