"""The files of an evaluation: metrics, scores, pictures, the page; the table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax.config import Config
from invad_jax.config.io import config_hash, to_dict
from invad_jax.data import preprocess
from invad_jax.evaluation import ground_truth
from invad_jax.evaluation.evaluate import Evaluation
from invad_jax.inference.model import Model
from invad_jax.io import files
from invad_jax.normality.calibration import Calibration
from invad_jax.report import figures, page, tables
from invad_jax.report.figures import Case
from invad_jax.runtime import processes
from invad_jax.runtime.log import log

FUSIONS = ("calibrated", "test_minmax")


def write(
    out: Path,
    workdir: Path,
    model: Model,
    calibration: Calibration,
    evaluation: Evaluation,
    speed: dict[str, Any] | None,
    save_maps: bool,
) -> None:
    """Writes every file of an evaluation, and prints the table; `speed` None: not measured."""
    config = model.config
    fusion = ground_truth.metric_tables(
        evaluation.truth, evaluation.anomaly_map, evaluation.image_score
    )
    mask_counts = ground_truth.mask_counts(evaluation.truth)
    payload = {
        "schema": 1,
        "step": model.step,
        "nfe": model.paradigm.nfe,
        "terms": [term.name for term in calibration.terms],
        "seed": config.train.seed,
        "config_hash": config_hash(config),
        "versions": processes.versions(),
        "device": processes.device_summary(),
        "fusion": fusion,
        "masks": mask_counts,
        "speed": speed,
    }
    cases = make_cases(evaluation, calibration, config)
    rows = score_rows(evaluation, calibration, model.component_names)
    tables.write_scores_csv(out / "scores.csv", rows)
    tables.write_metrics_csv(out / "metrics.csv", fusion)
    page.write_html(
        out / "report.html", f"{workdir.name}: evaluation at step {model.step}",
        f"python -m invad_jax.eval --workdir {workdir}", to_dict(config), calibration, rows, cases,
        payload,
    )  # fmt: skip
    figures.write_examples(out / "examples", cases, calibration)
    if save_maps:
        write_maps(out / "maps", evaluation)
    tables.write_metrics_json(out / "metrics.json", payload)
    for name in FUSIONS:
        print(f"\n{tables.FUSION_TITLES[name]}\n{tables.format_table(fusion[name])}")
    note = ground_truth.mask_note(mask_counts)
    if note:
        print(f"\n{note}")
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
            "decision": tables.decision_word(evaluation.decision[i]),
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
            image=preprocess.read_image(evaluation.samples[i].path, config.data),
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
