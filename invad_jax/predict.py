"""Scores new images that have no labels: a decision and a picture for each.

    python -m invad_jax.predict --workdir runs/hazelnut --input new_parts/ --out decisions/

Needs nothing but the workdir: no training images, no labels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from invad_jax.config import TERMS, DataConfig
from invad_jax.config.io import to_dict
from invad_jax.data import preprocess
from invad_jax.errors import UserError
from invad_jax.inference.calibrate import calibrate
from invad_jax.inference.model import load_model
from invad_jax.normality import calibration as calibration_lib
from invad_jax.report import page, tables
from invad_jax.report.figures import Case, write_overlay
from invad_jax.runtime import cli as command_line
from invad_jax.runtime import processes
from invad_jax.runtime.log import log
from invad_jax.runtime.workdir import Workdir

CASES_ON_THE_PAGE = 60
"""Each adds about 50 kB."""


def main(args: argparse.Namespace) -> None:
    """From a folder of images to `predictions.csv` and one overlay for each."""
    workdir = Workdir(command_line.workdir_of(args))
    config = workdir.resolve(args.config, args.set)
    paths = find_images(Path(args.input))
    model = load_model(workdir, config)
    calibration = calibrate(model, workdir, None)
    out = Path(args.out)
    names = overlay_names(paths, Path(args.input))
    rows: list[dict[str, Any]] = [{} for _ in paths]
    maps: list[np.ndarray] = [np.empty(0)] * len(paths)
    with tqdm(
        total=len(paths), desc="predict", unit="image", disable=not processes.is_primary()
    ) as bar:
        for ids, scores in model.predict_paths([str(path) for path in paths]):
            terms = {name: np.asarray(getattr(scores, name)) for name in TERMS}
            image_score = calibration_lib.image_score(calibration, terms)
            decision = calibration_lib.decide(calibration, image_score)
            for row, i in enumerate(ids):
                maps[i] = np.asarray(scores.latent_norm[row])
                rows[i] = {
                    "path": str(paths[i]),
                    "image_score": float(image_score[row]),
                    **{name: float(values[row]) for name, values in terms.items()},
                    "component": model.component_names[int(scores.component[row])],
                    "threshold": calibration.threshold,
                    "decision": tables.decision_word(decision[row]),
                }
                if processes.is_primary():
                    image = preprocess.read_original(paths[i], config.data)
                    write_overlay(out / names[i], image, maps[i], calibration)
            bar.update(len(ids))
    if processes.is_primary():
        tables.write_predictions_csv(out / "predictions.csv", rows)
        page.write_html(
            out / "report.html", f"{len(rows)} new images, by {workdir.path}",
            f"python -m invad_jax.predict --workdir {workdir.path} --input {args.input}",
            to_dict(config), calibration, rows, make_cases(rows, maps, config.data),
        )  # fmt: skip
        anomalous = sum(row["decision"] == "anomalous" for row in rows)
        log.info("%d of %d images anomalous; written to %s", anomalous, len(rows), out)


def make_cases(rows: list[dict[str, Any]], maps: list[np.ndarray], data: DataConfig) -> list[Case]:
    """The images with the highest scores, for the page."""
    ranked = sorted(range(len(rows)), key=lambda i: -rows[i]["image_score"])[:CASES_ON_THE_PAGE]
    return [
        Case(
            path=rows[i]["path"],
            category="",
            defect="",
            gt_label=None,
            image=preprocess.read_image(rows[i]["path"], data),
            gt_mask=None,
            anomaly_map=maps[i],
            image_score=rows[i]["image_score"],
            nll=rows[i]["nll"],
            map_range=rows[i]["map_range"],
            threshold=rows[i]["threshold"],
            decision=rows[i]["decision"] == tables.decision_word(True),
        )
        for i in ranked
    ]


def find_images(source: Path) -> list[Path]:
    """One image, or all images of a folder and its subfolders, sorted.

    Raises:
      UserError: missing, or holds no image.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"--input {source}: no such file or folder")
    paths = [Path(path) for path in preprocess.image_paths(source, recursive=True)]
    if not paths:
        raise UserError(f"--input {source}: holds no image")
    return paths


def overlay_names(paths: Sequence[Path], source: Path) -> list[Path]:
    """Where each overlay goes below `--out`: the image's own place, as PNG; never two the same."""
    root = source if source.is_dir() else source.parent
    names = [path.relative_to(root).with_suffix(".png") for path in paths]
    twins = {name for name in names if names.count(name) > 1}
    return [
        path.relative_to(root).with_name(path.name + ".png") if name in twins else name
        for path, name in zip(paths, names, strict=True)
    ]


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_run()
    parser.add_argument("--input", required=True, metavar="FILE_OR_FOLDER", help="what to score")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
