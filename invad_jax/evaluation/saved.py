"""Evaluations read back from their files, and the images of two of them paired.

Read next: `compare.py`.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax import metrics
from invad_jax.data.dataset import some
from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.io.paths import to_path
from invad_jax.report.tables import METRICS

TERMS = ("nll", "map_range", "image_score_calibrated", "image_score_test_minmax")
ALIASES = {"image_score": "image_score_calibrated"}
DECISIONS = {"anomalous": True, "normal": False, "1": True, "0": False}
TEXTS: dict[str, tuple[str, ...]] = {
    "category": (),
    "gt_label": ("0", "1"),
    "decision": tuple(DECISIONS),
}
"""The other columns that are read, and what may stand in them; empty: anything."""


@dataclass(frozen=True)
class Run:
    """One evaluation; every array and list has a row for each test image."""

    source: Path
    """The CSV file."""
    paths: list[str]
    terms: dict[str, np.ndarray]
    """Of `TERMS`, those that are there: (N,) float64."""
    texts: dict[str, list[str]]
    """Of `TEXTS`, those that are there: N strings."""
    report: dict[str, Any] | None
    """`metrics.json`; a CSV from elsewhere has none."""

    def take(self, order: list[int]) -> Run:
        """The same with its rows in another order."""
        return dataclasses.replace(
            self,
            paths=[self.paths[i] for i in order],
            terms={name: values[order] for name, values in self.terms.items()},
            texts={name: [values[i] for i in order] for name, values in self.texts.items()},
        )


def read_run(path: str | Path) -> Run:
    """Reads a workdir, an evaluation's folder or a CSV file.

    Raises:
      UserError: nothing of the kind is there, or a value is not what its column says.
    """
    path = to_path(path)
    if path.is_dir():
        folder = path if (path / "scores.csv").is_file() else path / "eval"
        if not (folder / "scores.csv").is_file():
            raise UserError(
                f"{path}: no scores.csv there or in its eval/; run invad_jax.eval first"
            )
        report = files.read_json(folder / "metrics.json")
        if not isinstance(report, dict) or not isinstance(report.get("fusion"), dict):
            raise UserError(
                f"{folder / 'metrics.json'}: not what invad_jax.eval writes (no fusion)"
            )
        return _read_csv(folder / "scores.csv", report)
    return _read_csv(path, None)


def _read_csv(path: Path, report: dict[str, Any] | None) -> Run:
    columns, rows = _columns_and_rows(path)
    present = [name for name in TERMS if name in columns]
    if "path" not in columns or not present:
        raise UserError(f"{path}: needs the column path and one of {', '.join((*TERMS, *ALIASES))}")
    _refuse(f"{path}: several columns are the same", _repeated(columns))
    if not rows:
        raise UserError(f"{path}: holds no rows")
    paths = [row["path"] for row in rows]
    _refuse(f"{path}: several rows for one image", _repeated(paths))
    terms = {name: np.array([_number(path, row, name) for row in rows]) for name in present}
    texts: dict[str, list[str]] = {
        name: [row[name].strip() for row in rows] for name in TEXTS if name in columns
    }
    for name, known in TEXTS.items():
        odd = sorted(set(texts.get(name, [])) - set(known)) if known else []
        if odd:
            raise UserError(f"{path}: {name} {odd[0]!r}: expected one of {', '.join(known)}")
    return Run(path, paths, terms, texts, report)


def _columns_and_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        # surrogateescape: the name of an image need not be valid Unicode
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            reader = csv.DictReader(stream, restval="")
            columns = [ALIASES.get(name, name) for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            return columns, list(reader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file: {error}") from error


def _number(path: Path, row: dict[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}: {row['path']}: {name} {row[name]!r}: expected a finite number")
    return value


def match(a: Run, b: Run) -> tuple[Run, int]:
    """Pairs the images: `b` in the order of `a`, and how many path components agree.

    The longest ends of the paths are taken that pair all images of both, one to one: whole paths,
    or, where the data set lies elsewhere, such as category/test/defect/name.

    Raises:
      UserError: no ends of the paths do, or a pair is not of one category or label.
    """
    parts = [[tuple(p.replace("\\", "/").split("/")) for p in run.paths] for run in (a, b)]
    deepest = max(len(p) for run in parts for p in run)
    closest = 1  # the longest ends that pair any images, for the message
    for depth in range(deepest, 0, -1):
        ends_a, ends_b = ([p[-depth:] for p in run] for run in parts)
        row_of = {end: row for row, end in enumerate(ends_b)}
        common = row_of.keys() & set(ends_a)
        if len(common) == len(ends_a) == len(ends_b):
            matched = b.take([row_of[end] for end in ends_a])
            _check_same_images(a, matched)
            return matched, depth
        closest = max(closest, depth if common else 0)
    in_a, in_b = (["/".join(p[-closest:]) for p in run] for run in parts)
    _refuse(f"{b.source}: without images of {a.source}", sorted(set(in_a) - set(in_b)))
    _refuse(f"{a.source}: without images of {b.source}", sorted(set(in_b) - set(in_a)))
    twins = sorted({*_repeated(in_a), *_repeated(in_b)})
    raise UserError(
        f"{a.source}, {b.source}: several images have the same end of path: {some(twins)}"
    )


def _check_same_images(a: Run, b: Run) -> None:
    for name in ("category", "gt_label"):
        if name in a.texts and name in b.texts:
            pairs = zip(a.paths, a.texts[name], b.texts[name], strict=True)
            _refuse(
                f"{a.source}, {b.source}: matched, but of another {name}",
                [f"{path} ({of_a}, {of_b})" for path, of_a, of_b in pairs if of_a != of_b],
            )


def _repeated(items: Iterable[str]) -> list[str]:
    return [item for item, count in Counter(items).items() if count > 1]


def _refuse(what: str, items: Sequence[str]) -> None:
    if items:
        raise UserError(f"{what}: {some(items)}")


def image_tables(run: Run, labels: Sequence[str], category: Sequence[str]) -> dict[str, Any]:
    """The metrics of whole images, laid out as `fusion` of `metrics.json`."""
    gt_label, names = np.array(labels).astype(int), np.array(category)
    no_pixels = dict.fromkeys(metrics.PIXEL_METRICS)
    tables = {}
    for term, score in run.terms.items():
        if term.startswith("image_score_"):
            rows = {
                name: metrics.combine(
                    metrics.image_metrics(score[names == name], gt_label[names == name]),
                    no_pixels,
                    gt_label[names == name],
                )
                for name in sorted(set(category))
            }
            tables[term.removeprefix("image_score_")] = {
                "categories": {name: dataclasses.asdict(row) for name, row in rows.items()},
                "mean": dataclasses.asdict(metrics.mean_over_categories(rows)),
            }
    return tables


def flat_metrics(run: Run, tables: dict[str, Any]) -> dict[tuple[str, str, str], float | None]:
    """(fusion, category or `mean`, metric) -> value in 0..1, or None where it does not exist.

    Raises:
      UserError: `tables` are not laid out as `fusion` of `metrics.json`.
    """
    try:
        return {
            (fusion, category, name): None if row[name] is None else float(row[name])
            for fusion, table in tables.items()
            for category, row in (*table["categories"].items(), ("mean", table["mean"]))
            for name in METRICS
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{run.source.with_name('metrics.json')}: not what invad_jax.eval writes: {error!r}"
        ) from error
