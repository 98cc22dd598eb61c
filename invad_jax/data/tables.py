"""The layout `csv`: a table that names every image; errors say in which line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from invad_jax.data.dataset import Categories, Dataset, Sample, is_normal
from invad_jax.errors import UserError


def table_categories(root: str) -> Categories:
    """A CSV or JSONL file with columns path, split, label and maybe mask_path, category."""
    table = Path(root).expanduser()
    if not root or not table.is_file():
        raise UserError(f"data.root={root}: no such file; expected a .csv or .jsonl table")
    parts: dict[str, tuple[list[Sample], list[Sample]]] = {}
    seen: dict[str, str] = {}
    for where, row in _read_rows(table, ("path", "split", "label")):
        split, sample = _row_sample(row, where, table)
        if sample.path in seen:
            raise UserError(f"{where}: {sample.path} is listed before, at {seen[sample.path]}")
        seen[sample.path] = where
        train, test = parts.setdefault(sample.category, ([], []))
        (train if split == "train" else test).append(sample)
    if not parts:
        raise UserError(f"{table}: has no rows")
    for category, (train, _) in parts.items():
        if not train:
            raise UserError(f"{table}: category {category}: no normal images with split=train")
    return {
        category: partial(Dataset, tuple(train), tuple(test))
        for category, (train, test) in parts.items()
    }


def _row_sample(row: dict[str, str], where: str, table: Path) -> tuple[str, Sample]:
    split, defect = row["split"].lower(), _defect(row["label"], where)
    if split not in ("train", "test"):
        raise UserError(f"{where}: split {row['split']!r}: expected train or test")
    if split == "train" and defect != "good":
        raise UserError(f"{where}: an anomalous image cannot be trained on; expected split test")
    path, mask = table.parent / row["path"], None
    if defect != "good" and row.get("mask_path"):
        mask = table.parent / row["mask_path"]
    for name, file in (("path", path), ("mask_path", mask)):
        if file and not file.is_file():
            raise UserError(f"{where}: {name} {file}: no such file")
    category = row.get("category") or table.stem
    return split, Sample(
        str(path), category, defect, int(defect != "good"), str(mask) if mask else None
    )


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


def _read_rows(table: Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
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
