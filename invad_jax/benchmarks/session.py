"""One run of the benchmark: everything is compiled first, then all is timed in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from invad_jax.benchmarks import machine, parts, report, subject, torch_lane, training, whole
from invad_jax.benchmarks.clock import Run, interleaved, summary
from invad_jax.benchmarks.subject import Subject
from invad_jax.config import Config
from invad_jax.config.io import config_hash
from invad_jax.errors import UserError
from invad_jax.inference import predictor as predictors
from invad_jax.inference.model import Model
from invad_jax.inference.predictor import Predictor
from invad_jax.runtime.log import log
from invad_jax.runtime.workdir import Workdir


def measure(
    config: Config,
    workdir: Workdir | None,
    batches: Sequence[int],
    seconds: float,
    repeats: int,
    images: int,
    torch: bool = False,
    trace: str | None = None,
) -> dict[str, Any]:
    """All numbers, as `benchmark.json` holds them.

    Args:
      config: of the detector.
      workdir: where it is trained; None: parameters of noise.
      batches: sizes.
      seconds: of each part in each repeat.
      repeats: rounds.
      images: files to decide on, with a workdir.
      torch: measure the PyTorch lane too.
      trace: a folder for a trace of the largest batch.

    Raises:
      UserError: the detector cannot be had, or PyTorch not be compared with.
    """
    described = machine.describe()
    predictor = predictors.of_workdir(workdir, config) if workdir else None
    measured = _subject_of(predictor) if predictor else subject.of_config(config)
    compiled = [*parts.detector_parts(measured, batches)]
    shape = measured.latent_shape
    step = parts.train_part(config, shape) if config.train.num_steps else None
    compiled += [step] if step else []
    rate_runs, amounts = machine.rate_runs(measured.mesh, measured.config.denoiser.dtype)
    runs: dict[str, Run] = {f"rate: {name}": run for name, run in rate_runs.items()}
    runs |= {part.key: part.run for part in compiled}
    sizes = [part.batch for part in compiled if part.name == "detector"]  # as rounded up
    error = _add_torch(runs, measured, sizes) if torch else 0.0
    runs["metrics"] = whole.metrics_run()
    if trace:
        with jax.profiler.trace(trace):
            next(part for part in reversed(compiled) if part.name == "detector").run()
    times = interleaved(runs, seconds, repeats)
    rates = {
        name: amount / (summary(times[f"rate: {name}"])["p50_ms"] / 1e3)
        for name, amount in amounts.items()
    }
    result: dict[str, Any] = {
        "schema": 1,
        "machine": described | {"load_average_after": machine.describe()["load_average"]},
        "config_hash": config_hash(config),
        "dtype": measured.config.denoiser.dtype,
        "rates": rates,
        "parts": [report.row(part, times[part.key], rates) for part in compiled],
        "metrics": summary(times["metrics"]),
    }
    if torch:
        theirs = {name[7:]: summary(times[name]) for name in times if name.startswith("torch: ")}
        result["against_torch"] = report.against_torch(result["parts"], theirs, error)
    if step and jax.process_count() == 1:
        loop = partial(training.measure, config, shape, step, seconds * repeats)
        result |= _without_loss("training", loop)
    if step:
        step.free()
    if predictor:
        result |= _without_loss("predict", partial(_predict, predictor, images))
    peak = {"host": machine.peak_host_bytes(), "device": machine.device_bytes()}
    return result | {"peak_bytes": peak}


def _without_loss(name: str, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is measured by its name; nothing, and a warning, where that fails: the rest is kept."""
    try:
        return {name: measured()}
    except (OSError, UserError) as error:  # such as a full disk
        if jax.process_count() > 1:  # the others would wait
            raise
        log.warning("%s is left out: %s", name, error)
        return {}


def _subject_of(predictor: Predictor) -> Subject:
    return subject.of_model(cast(Model, predictor.model))  # of a workdir


def _add_torch(runs: dict[str, Run], measured: Subject, batches: Sequence[int]) -> float:
    """Adds the other lane beside this one; returns how far their scores are apart."""
    worst = 0.0
    for batch in batches:
        theirs, said = torch_lane.runs(measured, batch)
        runs |= {f"torch: {name}, batch {batch}": run for name, run in theirs.items()}
        image = parts.images_of_noise(batch, measured.config.data)
        scores = jax.jit(measured.detector.predict)(measured.variables, image)
        ours: Mapping[str, np.ndarray] = {
            name: np.asarray(getattr(scores, name)) for name in ("latent_norm", "nll")
        }
        worst = max(worst, torch_lane.difference(dict(ours), said()))
    return worst


def _predict(predictor: Predictor, count: int) -> dict[str, Any]:
    size = predictor.model.batch_size
    (part,) = parts.detector_parts(_subject_of(predictor), [size], only="detector")
    with tempfile.TemporaryDirectory() as folder:
        paths = whole.write_images(Path(folder), max(count, size))
        for _ in predictor.predict_files(paths[:size]):
            pass  # compiles, and starts what reads
        return whole.predict_files(predictor, paths, part.run)
