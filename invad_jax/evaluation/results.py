"""The files of an evaluation: metrics, scores, pictures, the page; the table on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax.config import Config
from invad_jax.config.io import config_hash, to_dict
from invad_jax.data import preprocess
from invad_jax.data.dataset import some
from invad_jax.data.maps import of_image
from invad_jax.evaluation import ground_truth
from invad_jax.evaluation.evaluate import Evaluation
from invad_jax.inference.model import Model
from invad_jax.io import files, names
from invad_jax.normality.calibrations import Calibrations
from invad_jax.report import figures, page, tables
from invad_jax.report.figures import Case
from invad_jax.report.pictures import SIDE
from invad_jax.runtime import processes
from invad_jax.runtime.log import log

FILES = ("metrics.json", "metrics.csv", "scores.csv", "report.html", "examples", "maps", "maps.csv")
"""What an evaluation writes."""


EXAMPLES = 6
"""Cases a category that are drawn: the worst and the best."""


def write(
    out: Path,
    workdir: Path,
    command: str,
    model: Model,
    calibrations: Calibrations,
    evaluation: Evaluation,
    normals: Mapping[str, np.ndarray],
    speed: dict[str, Any] | None,
    save_maps: bool,
) -> None:
    """Writes every file of an evaluation, and prints the table.

    Args:
      out: the folder.
      workdir: for the title, and the command that is next.
      command: what was typed.
      model: compiled.
      calibrations: of its scores.
      evaluation: of the test set.
      normals: kind -> scores of the normal images that set its threshold.
      speed: None: not measured.
      save_maps: whether to write every map.
    """
    config = model.config
    fusion, pro = ground_truth.metric_tables(
        evaluation.truth, evaluation.latent_norm, evaluation.image_score
    )
    published = _is_published(model)
    mask_counts = ground_truth.mask_counts(evaluation.truth)
    payload = {
        "schema": 1,
        "step": model.step,
        "nfe": model.paradigm.nfe,
        "paradigm": config.inversion.paradigm,
        "objective": config.train.objective,
        "published": published,
        "terms": list(calibrations.terms),
        "seed": config.train.seed,
        "config_hash": config_hash(config),
        "versions": processes.versions(),
        "device": processes.device_summary(),
        "precision": config.denoiser.dtype,
        "fusion": fusion,
        "masks": mask_counts,
        "unreadable": list(evaluation.unreadable),
        "speed": speed,
    }
    rows = score_rows(evaluation, calibrations.names)
    tables.write_scores_csv(out / "scores.csv", rows)
    tables.write_metrics_csv(out / "metrics.csv", fusion)
    files.write_json(out / "metrics.json", payload)
    for name in fusion:  # first the numbers, which a picture that fails must not take along
        title = tables.fusion_title(name, published)
        print(f"\n{title}\n{tables.format_table(fusion[name])}")
    note = ground_truth.mask_note(mask_counts)
    if note:
        print(f"\n{note}")
    if evaluation.unreadable:
        lost = evaluation.unreadable
        log.warning("test images that cannot be read, left out: %d (%s)", len(lost), some(lost))
    order, examples = pictured(evaluation, EXAMPLES)

    def cases(chosen: Sequence[int]) -> Iterator[Case]:
        return (make_case(evaluation, calibrations, config, i) for i in chosen)

    page.write_html(
        out / "report.html",
        f"{workdir.name}: evaluation at step {model.step}",
        command,
        to_dict(config),
        calibrations,
        rows,
        cases(order),
        payload,
        normals,
        pro,
    )
    figures.write_examples(out / "examples", cases(examples))
    if save_maps:
        write_maps(out, evaluation, config.data.image_size)
    log.info("\nwritten to %s: metrics.json, metrics.csv, scores.csv, report.html, examples", out)
    log.info(
        "next: open %s, or score new images: "
        "python -m invad_jax.predict --workdir %s --input IMAGES --out FOLDER",
        out / "report.html",
        workdir,
    )


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


def pictured(evaluation: Evaluation, num_examples: int) -> tuple[list[int], list[int]]:
    """Which images a page shows, those that matter most first; and which are drawn as files.

    Args:
      evaluation: of N images.
      num_examples: of each category: half of it the worst, half of it the best.

    Returns:
      All N: every mistake, the worst first, then the examples, then the others, those that are
      nearest to their threshold first. And the examples alone.
    """
    score, anomalous = evaluation.image_score["calibrated"], evaluation.gt_label == 1
    margin = (score - evaluation.threshold) * np.where(anomalous, 1, -1)
    category = np.array([sample.category for sample in evaluation.samples])
    examples: list[int] = []
    for name in sorted(set(category)):
        ranked = sorted(np.flatnonzero(category == name).tolist(), key=lambda i: margin[i])
        worst = num_examples - num_examples // 2
        best = max(worst, len(ranked) - num_examples // 2)
        examples += ranked[:worst] + ranked[best:]
    wrong = evaluation.decision != anomalous
    rising = np.argsort(margin, kind="stable")
    order = [*rising[wrong[rising]].tolist(), *examples, *rising.tolist()]
    return list(dict.fromkeys(order)), examples


def make_case(evaluation: Evaluation, calibrations: Calibrations, config: Config, i: int) -> Case:
    """All that a page or a picture shows of the i-th image; reads it, in its own proportions."""
    sample, truth = evaluation.samples[i], evaluation.truth
    rows, columns = truth.extent[i]
    return Case(
        path=sample.path,
        category=sample.category,
        defect=sample.defect,
        gt_label=sample.gt_label,
        image=preprocess.read_original(sample.path, config.data, SIDE),
        gt_mask=truth.gt_mask[i, :rows, :columns] if truth.has_mask[i] else None,
        anomaly_map=of_image(evaluation.latent_norm[i], config.data.image_size, truth.extent[i]),
        image_score=float(evaluation.image_score["calibrated"][i]),
        terms={name: float(evaluation.terms[name][i]) for name in calibrations.terms},
        threshold=float(evaluation.threshold[i]),
        heat=calibrations.heat(evaluation.component[i]),
        decision=bool(evaluation.decision[i]),
    )


def write_maps(out: Path, evaluation: Evaluation, image_size: int) -> None:
    """One `maps/<category>/<defect>/<stem>.npy` a sample, and `maps.csv`, which says whose it is.

    Names come from data: what they share gets a number, and none leads out of the folder.

    Args:
      out: of the evaluation.
      evaluation: of N test images.
      image_size: side S of the maps that are written, (S, S) float32, or as much of it as a
        letterbox fills; NaN where an image takes no part.
    """
    samples = evaluation.samples
    places = [
        "/".join(map(names.one_part, (sample.category, sample.defect, Path(sample.path).name)))
        for sample in samples
    ]
    rows = []
    for i, (sample, name) in enumerate(zip(samples, names.unique(places, ".npy"), strict=True)):
        rows.append({"path": sample.path, "map": f"maps/{name}"})
        with files.replaced(out / "maps" / name) as temporary, temporary.open("wb") as stream:
            of_one = evaluation.latent_norm[i], image_size, evaluation.truth.extent[i]
            np.save(stream, of_image(*of_one))
    tables.write_csv(out / "maps.csv", ("path", "map"), rows)
