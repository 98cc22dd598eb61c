"""The layouts that a table describes, `csv` and `visa`; errors say in which line of it."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from invad_jax.data import names
from invad_jax.data.dataset import Categories, Dataset, Sample
from invad_jax.errors import UserError
from invad_jax.io.paths import has_file, note_files, to_path

_DELIMITERS = (",", ";", "\t", "|")

Row = tuple[str, dict[str, str]]
"""`FILE:LINE`, and the text of each column."""


def table_categories(root: str) -> Categories:
    """A CSV, TSV or JSONL file with columns path, split, label and maybe mask_path, category."""
    table = to_path(root).expanduser()
    if not root or not table.is_file():
        raise UserError(f"data.root={root}: no such file; expected a .csv, .tsv or .jsonl table")
    return _categories(table, _read_rows(table, ("path", "split", "label")), table.parent)


def visa_categories(root: str) -> Categories:
    """VisA as it is distributed: `split_csv/1cls.csv` beside the folders that it names."""
    folder = to_path(root).expanduser()
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
    note_files(folder)
    rows_of: dict[str, list[Row]] = {}
    seen: dict[Path, str] = {}
    for where, row in rows:
        path = _file(folder, row["path"])
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
    split, defect = names.SPLITS.get(names.plain(row["split"])), _defect(row["label"], where)
    if split is None:
        raise UserError(f"{where}: split {row['split']!r}: expected train or test")
    if split == "train" and defect != "good":
        raise UserError(f"{where}: an anomalous image cannot be trained on; expected split test")
    path, mask = _file(folder, row["path"]), None
    if defect != "good" and row.get("mask_path"):
        mask = _file(folder, row["mask_path"])
    for column, file in (("path", path), ("mask_path", mask)):
        if file and not has_file(file):
            raise UserError(f"{where}: {column} {file}: no such file")
    gt_label = int(defect != "good")
    return split, Sample(str(path), category, defect, gt_label, (str(mask),) if mask else ())


def _file(folder: Path, name: str) -> Path:
    """Relative to the folder of the table, maybe with the backslashes of Windows."""
    path = folder / name
    return folder / name.replace("\\", "/") if "\\" in name and not path.exists() else path


def _defect(label: str, where: str) -> str:
    """The label of a row as the name of a defect, `good` for normal."""
    if label == "0" or names.is_normal(label):
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
      table: one JSON object a line, a JSON list of objects, or a header and lines of values with
        commas, semicolons, tabs or bars between them; UTF-8, or UTF-16 with its mark.
      required: columns that must have a value in every row.

    Yields:
      `FILE:LINE`, and the row as stripped text by column; columns in lower case.

    Raises:
      UserError: unreadable, or a row that lacks a required value.
    """
    try:
        with table.open(encoding=_encoding(table), newline="") as stream:
            for line, values in _rows(stream, str(table), required):
                where = f"{table}:{line}"
                if not isinstance(values, dict):
                    raise UserError(f"{where}: expected a JSON object")
                row = {str(k).strip().lower(): _text(v) for k, v in values.items()}
                missing = [name for name in required if not row.get(name)]
                if missing:
                    raise UserError(f"{where}: no {missing[0]}; needs {', '.join(required)}")
                yield where, row
    except UnicodeError as error:
        raise UserError(
            f"{table}: cannot be read as a table: save it as UTF-8 ({error})"
        ) from error
    except (OSError, csv.Error, RecursionError) as error:
        raise UserError(f"{table}: cannot be read as a table: {error}") from error


def _encoding(table: Path) -> str:
    """Spreadsheets write UTF-16 where they are asked for Unicode, and mark it."""
    with table.open("rb") as stream:
        return "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _rows(stream: Any, table: str, required: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """Line and values of each row, of whichever kind the first line shows."""
    first, skipped = next(stream, ""), 0
    if first.lower().startswith("sep="):  # for spreadsheets
        first, skipped = next(stream, ""), 1
    lines = itertools.chain([first], stream)
    if first.lstrip()[:1] == "[":
        yield from enumerate(_json("".join(lines), f"{table}:1"), start=1)
        return
    if first.lstrip()[:1] == "{":
        yield from _json_rows(lines, table)
        return
    delimiter = max(_DELIMITERS, key=lambda d: len(set(required) & set(_header(first, d))))
    reader = csv.DictReader(lines, delimiter=delimiter)
    header = _header(first, delimiter)
    if first.strip() and not set(required) <= set(header):
        missing = next(name for name in required if name not in header)
        raise UserError(
            f"{table}:{1 + skipped}: no column {missing}; the first line must name the columns, "
            f"{', '.join(required)} among them"
        )
    for row in reader:
        row.pop(None, None)  # values beyond the last column
        yield reader.line_num + skipped, row


def _header(line: str, delimiter: str) -> list[str]:
    return [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter), [])]


def _json_rows(lines: Iterable[str], name: str) -> Iterator[tuple[int, Any]]:
    for line, text in enumerate(lines, start=1):
        if text.strip():
            yield line, _json(text, f"{name}:{line}")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON: {error.msg}") from error
