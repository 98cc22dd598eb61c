"""The files of an evaluation: metrics, scores, pictures, the page; the table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax.config import Config
from invad_jax.config.io import config_hash, to_dict
from invad_jax.data import preprocess
from invad_jax.data.dataset import Sample, some
from invad_jax.evaluation import ground_truth
from invad_jax.evaluation.evaluate import Evaluation
from invad_jax.evaluation.maps import enlarge
from invad_jax.inference.model import Model
from invad_jax.io import files, names
from invad_jax.normality.calibrations import Calibrations
from invad_jax.report import figures, page, tables
from invad_jax.report.figures import Case
from invad_jax.runtime import processes
from invad_jax.runtime.log import log

FUSIONS = ("calibrated", "test_minmax")
FILES = ("metrics.json", "metrics.csv", "scores.csv", "report.html", "examples", "maps", "maps.csv")
"""What an evaluation writes."""


def write(
    out: Path,
    workdir: Path,
    model: Model,
    calibrations: Calibrations,
    evaluation: Evaluation,
    speed: dict[str, Any] | None,
    save_maps: bool,
) -> None:
    """Writes every file of an evaluation, and prints the table; `speed` None: not measured."""
    config = model.config
    fusion = ground_truth.metric_tables(
        evaluation.truth, evaluation.latent_norm, evaluation.image_score
    )
    published = _is_published(model)
    mask_counts = ground_truth.mask_counts(evaluation.truth)
    payload = {
        "schema": 1,
        "step": model.step,
        "nfe": model.paradigm.nfe,
        "published": published,
        "terms": list(calibrations.terms),
        "seed": config.train.seed,
        "config_hash": config_hash(config),
        "versions": processes.versions(),
        "device": processes.device_summary(),
        "fusion": fusion,
        "masks": mask_counts,
        "unreadable": list(evaluation.unreadable),
        "speed": speed,
    }
    rows = score_rows(evaluation, calibrations.names)
    tables.write_scores_csv(out / "scores.csv", rows)
    tables.write_metrics_csv(out / "metrics.csv", fusion)
    tables.write_metrics_json(out / "metrics.json", payload)
    for name in FUSIONS:  # first the numbers, which a picture that fails must not take along
        title = tables.fusion_title(name, published)
        print(f"\n{title}\n{tables.format_table(fusion[name])}")
    note = ground_truth.mask_note(mask_counts)
    if note:
        print(f"\n{note}")
    if evaluation.unreadable:
        lost = evaluation.unreadable
        log.warning("test images that cannot be read, left out: %d (%s)", len(lost), some(lost))
    cases = make_cases(evaluation, calibrations, config)
    page.write_html(
        out / "report.html", f"{workdir.name}: evaluation at step {model.step}",
        f"python -m invad_jax.eval --workdir {workdir}", to_dict(config), calibrations, rows, cases,
        payload,
    )  # fmt: skip
    figures.write_examples(out / "examples", cases)
    if save_maps:
        write_maps(out, evaluation.samples, evaluation.latent_norm, config.data.image_size)
    log.info("\nwritten to %s: metrics.json, metrics.csv, scores.csv, report.html, examples", out)
    log.info(
        "next: open %s, or score new images: "
        "python -m invad_jax.predict --workdir %s --input IMAGES --out FOLDER",
        out / "report.html", workdir,
    )  # fmt: skip


def _is_published(model: Model) -> bool:
    """Whether images are compared as the paper does: x_T of its own steps with N(0, I)."""
    config, paradigm = model.config, model.paradigm
    as_given = config.train.latent_stats != "whiten" and config.inversion.solver == "ddim"
    return paradigm.inverts and not paradigm.lessons and as_given


def score_rows(evaluation: Evaluation, component_names: Sequence[str]) -> list[dict[str, Any]]:
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
            "threshold": float(evaluation.threshold[i]),
            "decision": tables.decision_word(evaluation.decision[i]),
        }
        for i, sample in enumerate(evaluation.samples)
    ]


def make_cases(evaluation: Evaluation, calibrations: Calibrations, config: Config) -> list[Case]:
    """The cases that the report draws: per category the worst and the best, by margin.

    The margin of a sample is how far its score lies on the right side of the threshold.
    """
    score = evaluation.image_score["calibrated"]
    margin = (score - evaluation.threshold) * np.where(evaluation.gt_label == 1, 1, -1)
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
            anomaly_map=enlarge(evaluation.latent_norm[i : i + 1], config.data.image_size)[0],
            image_score=float(score[i]),
            terms={name: float(evaluation.terms[name][i]) for name in calibrations.terms},
            threshold=float(evaluation.threshold[i]),
            heat=calibrations.heat(evaluation.component[i]),
            decision=bool(evaluation.decision[i]),
        )
        for i in chosen
    ]


def write_maps(
    out: Path, samples: Sequence[Sample], latent_norm: np.ndarray, image_size: int
) -> None:
    """One `maps/<category>/<defect>/<stem>.npy` a sample, and `maps.csv`, which says whose it is.

    Names come from data: what they share gets a number, and none leads out of the folder.

    Args:
      out: of the evaluation.
      samples: N test images.
      latent_norm: (N, h, w) float32.
      image_size: side S of the maps that are written, (S, S) float32.
    """
    places = [
        "/".join(map(names.one_part, (sample.category, sample.defect, Path(sample.path).name)))
        for sample in samples
    ]
    rows = []
    for i, (sample, name) in enumerate(zip(samples, names.unique(places, ".npy"), strict=True)):
        rows.append({"path": sample.path, "map": f"maps/{name}"})
        with files.replaced(out / "maps" / name) as temporary, temporary.open("wb") as stream:
            np.save(stream, enlarge(latent_norm[i : i + 1], image_size)[0])
    tables.write_csv(out / "maps.csv", ("path", "map"), rows)
