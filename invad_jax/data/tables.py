"""The layouts that a table describes, `csv` and `visa`; errors say in which line of it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from invad_jax.data.dataset import Categories, Dataset, Sample
from invad_jax.data.names import is_normal
from invad_jax.errors import UserError

Row = tuple[str, dict[str, str]]
"""`FILE:LINE`, and the text of each column."""


def table_categories(root: str) -> Categories:
    """A CSV or JSONL file with columns path, split, label and maybe mask_path, category."""
    table = Path(root).expanduser()
    if not root or not table.is_file():
        raise UserError(f"data.root={root}: no such file; expected a .csv or .jsonl table")
    return _categories(table, _read_rows(table, ("path", "split", "label")), table.parent)


def visa_categories(root: str) -> Categories:
    """VisA as it is distributed: `split_csv/1cls.csv` beside the folders that it names."""
    folder = Path(root).expanduser()
    table = folder / "split_csv" / "1cls.csv"
    if not root or not table.is_file():
        raise UserError(
            f"data.root={root}: no such file as split_csv/1cls.csv in it, with which VisA is "
            "distributed; of a copy in the layout of MVTec AD: data.name=mvtec"
        )
    ours = {"object": "category", "image": "path", "mask": "mask_path"}
    rows = (
        (where, {ours.get(column, column): value for column, value in row.items()})
        for where, row in _read_rows(table, ("object", "split", "label", "image"))
    )
    return _categories(table, rows, folder)


def _categories(table: Path, rows: Iterable[Row], folder: Path) -> Categories:
    """Rows by their category; what a row says is checked when its category is wanted.

    Args:
      table: what the rows are from; its name is the category of rows that name none.
      rows: with columns path, split, label and maybe mask_path, category.
      folder: what their paths are relative to.
    """
    rows_of: dict[str, list[Row]] = {}
    seen: dict[Path, str] = {}
    for where, row in rows:
        path = folder / row["path"]
        if path in seen:
            raise UserError(f"{where}: {path} is listed before, at {seen[path]}")
        seen[path] = where
        rows_of.setdefault(row.get("category") or table.stem, []).append((where, row))
    if not rows_of:
        raise UserError(f"{table}: has no rows")
    return {
        category: partial(_dataset, table, rows_of[category], folder, category)
        for category in rows_of
    }


def _dataset(table: Path, rows: Sequence[Row], folder: Path, category: str) -> Dataset:
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for where, row in rows:
        split, sample = _row_sample(row, where, folder, category)
        parts[split].append(sample)
    if not parts["train"]:
        raise UserError(f"{table}: category {category}: no normal images with split=train")
    return Dataset(tuple(parts["train"]), tuple(parts["test"]))


def _row_sample(row: dict[str, str], where: str, folder: Path, category: str) -> tuple[str, Sample]:
    split, defect = row["split"].lower(), _defect(row["label"], where)
    if split not in ("train", "test"):
        raise UserError(f"{where}: split {row['split']!r}: expected train or test")
    if split == "train" and defect != "good":
        raise UserError(f"{where}: an anomalous image cannot be trained on; expected split test")
    path, mask = folder / row["path"], None
    if defect != "good" and row.get("mask_path"):
        mask = folder / row["mask_path"]
    for name, file in (("path", path), ("mask_path", mask)):
        if file and not file.is_file():
            raise UserError(f"{where}: {name} {file}: no such file")
    gt_label = int(defect != "good")
    return split, Sample(str(path), category, defect, gt_label, (str(mask),) if mask else ())


def _defect(label: str, where: str) -> str:
    """The label of a row as the name of a defect, `good` for normal."""
    if label == "0" or is_normal(label):
        return "good"
    if label == "1":
        return "anomalous"
    # 1.0, nan, False: what programs write in place of 0 and 1 is not the name of a defect
    if re.fullmatch(r"[-+.\d]+|nan|true|false", label.lower()):
        raise UserError(f"{where}: label {label!r}: expected 0, 1, good or the name of a defect")
    return label


def _read_rows(table: Path, required: Sequence[str]) -> Iterator[Row]:
    """Reads a table; what is missing, null or blank becomes the empty string.

    Args:
      table: a CSV file with a header; or, by any other suffix, one JSON object a line.
      required: columns that must have a value in every row.

    Yields:
      `FILE:LINE`, and the row as stripped text by column.

    Raises:
      UserError: unreadable, or a row that lacks a required value.
    """
    read = _csv_rows if table.suffix.lower() == ".csv" else _json_rows
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            for line, values in read(stream):
                where = f"{table}:{line}"
                if not isinstance(values, dict):
                    raise UserError(f"{where}: expected a JSON object")
                row = {k: "" if v is None else str(v).strip() for k, v in values.items()}
                missing = [name for name in required if not row.get(name)]
                if missing:
                    raise UserError(f"{where}: no {missing[0]}; needs {', '.join(required)}")
                yield where, row
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise UserError(f"{table}: cannot be read as a table: {error}") from error


def _csv_rows(stream: Any) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(stream)
    for row in reader:
        yield reader.line_num, row


def _json_rows(stream: Any) -> Iterator[tuple[int, Any]]:
    for line, text in enumerate(stream, start=1):
        if text.strip():
            try:
                yield line, json.loads(text)
            except json.JSONDecodeError as error:
                raise UserError(f"{stream.name}:{line}: not valid JSON: {error.msg}") from error
