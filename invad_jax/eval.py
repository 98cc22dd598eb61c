"""Evaluates a trained detector on its test set: every metric, every score, pictures, a page.

    python -m invad_jax.eval --config configs/hazelnut.py
    python -m invad_jax.eval --workdir runs/hazelnut --set inversion.num_steps=5 --out /tmp/five

Read next: `detector.py`, the method itself.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from invad_jax import calibration as calibration_lib
from invad_jax import figures, files, ground_truth, page, report, runtime
from invad_jax.calibration import Calibration
from invad_jax.config import TERMS, Config
from invad_jax.config_io import config_hash, to_dict
from invad_jax.data import layouts, preprocess
from invad_jax.data.layouts import Sample
from invad_jax.errors import UserError
from invad_jax.figures import Case
from invad_jax.ground_truth import GroundTruth
from invad_jax.inference import Model, load_model
from invad_jax.normals import calibrated
from invad_jax.runtime import log
from invad_jax.sharding import batch_sharding
from invad_jax.workdir import Workdir

FUSIONS = ("calibrated", "test_minmax")


class Evaluation(NamedTuple):
    """Everything that is known of a test set, one row per sample."""

    truth: GroundTruth
    anomaly_map: np.ndarray
    """(N, H, W) float32."""
    terms: dict[str, np.ndarray]
    """Each of `config.TERMS` -> (N,) float64."""
    component: np.ndarray
    """(N,) int: the likeliest component of the prior."""
    image_score: dict[str, np.ndarray]
    """Fusion name -> (N,) float64."""
    decision: np.ndarray
    """(N,) bool, of the calibrated score."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The N images."""
        return self.truth.samples

    @property
    def gt_label(self) -> np.ndarray:
        """(N,) int: 1 = anomalous."""
        return np.array([sample.gt_label for sample in self.samples])


def main(args: argparse.Namespace) -> None:
    """From a workdir to `metrics.json`, the tables and the pictures."""
    workdir = Workdir(runtime.default_workdir(args))
    config = workdir.resolve(args.config, args.set)
    dataset = layouts.load_dataset(config.data)
    if not dataset.test:
        raise UserError(f"data.root={config.data.root}: has no test images; use predict")
    normals = layouts.hold_out(dataset.train, config.data.holdout_fraction)
    model, calibration = calibrated(load_model(workdir, config), workdir, normals)

    evaluation = evaluate(model, calibration, dataset.test)
    speed = measure_speed(model, [sample.path for sample in dataset.test])
    if runtime.is_primary():
        out = Path(args.out) if args.out else workdir.path / "eval"
        write(out, workdir.path, model, calibration, evaluation, speed, args.save_maps)


def evaluate(model: Model, calibration: Calibration, samples: tuple[Sample, ...]) -> Evaluation:
    """Scores the test set and reads its ground truth.

    Memory: 5 bytes a test pixel for maps and masks, beside what the metrics take.
    """
    size, count = model.config.data.image_size, len(samples)
    truth = ground_truth.read(samples, size)
    anomaly_map = np.empty((count, size, size), np.float32)
    terms = {name: np.empty(count) for name in TERMS}
    component = np.zeros(count, int)
    with tqdm(total=count, desc="eval", unit="image", disable=not runtime.is_primary()) as bar:
        for ids, scores in model.predict_paths([sample.path for sample in samples]):
            anomaly_map[ids] = scores.anomaly_map
            component[ids] = scores.component
            for name, values in terms.items():
                values[ids] = getattr(scores, name)
            bar.update(len(ids))
    calibrated = calibration_lib.image_score(calibration, terms)
    categories = [sample.category for sample in samples]
    image_score = {
        "calibrated": calibrated,
        "test_minmax": calibration_lib.test_minmax(terms["nll"], terms["map_range"], categories),
    }
    decision = calibration_lib.decide(calibration, calibrated)
    return Evaluation(truth, anomaly_map, terms, component, image_score, decision)


def measure_speed(model: Model, paths: list[str], seconds: float = 2.0) -> dict[str, Any]:
    """Throughput in batches and latency of single images, of the compiled detector alone.

    Images are decoded and on the device before the clock starts; the compiler has run; every
    measurement ends with the results on the device being ready.
    """
    size, batch_size = model.config.data.image_size, model.batch_size
    some = itertools.islice(itertools.cycle(paths), batch_size)
    image = np.stack([preprocess.read_image(path, size) for path in some])
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
    while runtime.primary_says(sum(times) < seconds or len(times) < 3):  # all run equally often
        start = time.perf_counter()
        jax.block_until_ready(model.predict_batch(on_device))
        times.append(time.perf_counter() - start)
    return times


def write(
    out: Path,
    workdir: Path,
    model: Model,
    calibration: Calibration,
    evaluation: Evaluation,
    speed: dict[str, Any],
    save_maps: bool,
) -> None:
    """Writes every file of an evaluation, and prints the table."""
    config = model.config
    fusion = ground_truth.metric_tables(
        evaluation.truth, evaluation.anomaly_map, evaluation.image_score
    )
    payload = {
        "schema": 1,
        "step": model.step,
        "nfe": model.detector.nfe,
        "terms": [term.name for term in calibration.terms],
        "seed": config.train.seed,
        "config_hash": config_hash(config),
        "versions": runtime.versions(),
        "device": runtime.device_summary(),
        "fusion": fusion,
        "speed": speed,
    }
    cases = make_cases(evaluation, calibration, config)
    rows = score_rows(evaluation, calibration, model.component_names)
    report.write_scores_csv(out / "scores.csv", rows)
    report.write_metrics_csv(out / "metrics.csv", fusion)
    page.write_html(
        out / "report.html", f"{workdir.name}: evaluation at step {model.step}",
        f"python -m invad_jax.eval --workdir {workdir}", to_dict(config), calibration, rows, cases,
        payload,
    )  # fmt: skip
    figures.write_examples(out / "examples", cases, calibration)
    if save_maps:
        write_maps(out / "maps", evaluation)
    report.write_metrics_json(out / "metrics.json", payload)
    for name in FUSIONS:
        print(f"\n{report.FUSION_TITLES[name]}\n{report.format_table(fusion[name])}")
    log.info("\nwritten to %s: metrics.json, metrics.csv, scores.csv, report.html, examples", out)
    log.info(
        "next: open %s, or score new images: "
        "python -m invad_jax.predict --workdir %s --input IMAGES --out FOLDER",
        out / "report.html", workdir,
    )  # fmt: skip


def score_rows(
    evaluation: Evaluation, calibration: Calibration, component_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of `scores.csv`."""
    return [
        {
            "path": sample.path,
            "category": sample.category,
            "defect": sample.defect,
            "gt_label": sample.gt_label,
            **{name: float(values[i]) for name, values in evaluation.terms.items()},
            "component": component_names[evaluation.component[i]],
            "image_score_calibrated": float(evaluation.image_score["calibrated"][i]),
            "image_score_test_minmax": float(evaluation.image_score["test_minmax"][i]),
            "threshold": calibration.threshold,
            "decision": report.decision_word(evaluation.decision[i]),
        }
        for i, sample in enumerate(evaluation.samples)
    ]


def make_cases(evaluation: Evaluation, calibration: Calibration, config: Config) -> list[Case]:
    """The cases that the report draws: per category the worst and the best, by margin.

    The margin of a sample is how far its score lies on the right side of the threshold.
    """
    score = evaluation.image_score["calibrated"]
    margin = (score - calibration.threshold) * np.where(evaluation.gt_label == 1, 1, -1)
    category = np.array([sample.category for sample in evaluation.samples])
    chosen: list[int] = []
    for name in sorted(set(category)):
        ranked = sorted(np.flatnonzero(category == name).tolist(), key=lambda i: margin[i])
        worst = config.eval.num_examples - config.eval.num_examples // 2
        best = max(worst, len(ranked) - config.eval.num_examples // 2)
        chosen += ranked[:worst] + ranked[best:]
    return [
        Case(
            path=evaluation.samples[i].path,
            category=evaluation.samples[i].category,
            defect=evaluation.samples[i].defect,
            gt_label=evaluation.samples[i].gt_label,
            image=preprocess.read_image(evaluation.samples[i].path, config.data.image_size),
            gt_mask=evaluation.truth.gt_mask[i] if evaluation.truth.has_mask[i] else None,
            anomaly_map=evaluation.anomaly_map[i],
            image_score=float(score[i]),
            nll=float(evaluation.terms["nll"][i]),
            map_range=float(evaluation.terms["map_range"][i]),
            threshold=calibration.threshold,
            decision=bool(evaluation.decision[i]),
        )
        for i in chosen
    ]


def write_maps(out: Path, evaluation: Evaluation) -> None:
    """One `<category>/<defect>/<stem>.npy` a sample, (H, W) float32."""
    for sample, anomaly_map in zip(evaluation.samples, evaluation.anomaly_map, strict=True):
        path = out / sample.category / sample.defect / f"{Path(sample.path).stem}.npy"
        with files.replaced(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, anomaly_map)


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = runtime.make_parser(__doc__)
    parser.add_argument("--out", metavar="DIR", help="default <workdir>/eval")
    parser.add_argument("--save-maps", action="store_true", help="also write every anomaly map")
    return runtime.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
