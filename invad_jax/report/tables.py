"""Numbers of an evaluation or a prediction as files and as a table for the terminal.

Read next: `figures.py` (pictures), `page.py` (one HTML page of both).
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, Literal, TextIO

from invad_jax.config import TERMS
from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.io.paths import to_path

METRICS = ("i_auroc", "i_ap", "i_f1_max", "p_auroc", "p_ap", "p_f1_max", "aupro", "mad")
COUNTS = ("n_normal", "n_anomalous")
SCORE_COLUMNS = (
    *("path", "category", "defect", "gt_label", *TERMS, "component"),
    *("image_score_calibrated", "image_score_test_minmax", "threshold", "decision"),
)
PREDICTION_COLUMNS = (
    *("path", "image_score", "threshold", "decision", "component", "normal_percentile"),
    *("regions", "left", "top", "width", "height", "area"),
    *("peak", "overlay", "error"),
)
"""`regions` counts those above the level of heat; the next six are of the one that peaks highest,
in pixels of the image."""
REGION_COLUMNS = ("left", "top", "width", "height", "area", "peak")
UNREADABLE = "unreadable"
"""Stands for the decision on an image that has no score; `error` says why."""

TERM_TITLES = {
    "nll": "NLL (nats)",
    "map_range": "Diff",
    "map_mean": "mean of the map",
    "map_max": "maximum of the map",
    "map_top": "top 2 % of the map",
}
"""What pages and pictures call the terms of a score."""


def fusion_title(kind: str, published: bool) -> str:
    """What a table of metrics is of.

    Args:
      kind: `calibrated` or `test_minmax`.
      published: whether images are compared as the paper does.

    >>> fusion_title("test_minmax", published=False)[:49]
    "test_minmax: NLL and Diff added up as the paper's"
    """
    if kind == "calibrated":
        return "calibrated: scaled by normal images alone (inductive: scores any single image)"
    other = "NLL and Diff added up as the paper's, but of another way of comparing"
    whose = "the paper's" if published else other
    return (
        f"{kind}: {whose}, scaled by this test set (transductive: cannot score a single new image)"
    )


def decision_word(anomalous: bool) -> str:
    """The word for a decision in files and pictures.

    >>> decision_word(True), decision_word(False)
    ('anomalous', 'normal')
    """
    return "anomalous" if anomalous else "normal"


def verdict(decision: bool, gt_label: int | None) -> str:
    """`found`, `missed`, `passed`, `false alarm`; the decision itself where unlabelled.

    >>> verdict(True, 0), verdict(True, None)
    ('false alarm', 'anomalous')
    """
    if gt_label is None:
        return decision_word(decision)
    if gt_label:
        return "found" if decision else "missed"
    return "false alarm" if decision else "passed"


def write_metrics_csv(path: str | Path, fusion: Mapping[str, Any]) -> None:
    """Writes `metrics.csv`: a row for each fusion and category, and the mean last of each fusion.

    Args:
      path: the file.
      fusion: name -> {"categories": {name: metrics}, "mean": metrics}; values 0..1 or None.
    """
    columns = ("fusion", "category", *COUNTS, *METRICS)
    rows = [
        {"fusion": kind, "category": category, **values}
        for kind, table in fusion.items()
        for category, values in _table_rows(table)
    ]
    write_csv(path, columns, rows)


def write_scores_csv(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes `scores.csv`, a row (keyed by `SCORE_COLUMNS`) for each test image."""
    write_csv(path, SCORE_COLUMNS, rows)


class PredictionStream:
    """Rows of new images, written one by one: what ends the program loses none that was written.

    The file is begun with the first row, and what it held before is then gone.
    """

    def __init__(
        self,
        target: str | Path | TextIO,
        kind: Literal["csv", "jsonl"],
        columns: Sequence[str] = PREDICTION_COLUMNS,
    ):
        """Writes to a file that is made, or to a stream that is open already.

        Args:
          target: the file or the stream.
          kind: of it.
          columns: of a CSV file.
        """
        self._target = target
        self._kind = kind
        self._columns = columns
        self._stream: TextIO | None = None
        self._growing: files.Growing | None = None
        self._whole = 0
        """Bytes of the file up to the end of its last row."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes a row, keyed by `PREDICTION_COLUMNS` less `REGION_COLUMNS`; `regions` is a list of
        mappings keyed by these, and `terms` another mapping.

        Raises:
          UserError: the file cannot be written.
        """
        try:
            columns = self._columns
            line = _json_line(row) if self._kind == "jsonl" else prediction_line(row, columns)
            stream = self._stream or self._begin()
            stream.write(line)
            stream.flush()
            if self._growing:
                self._whole = os.fstat(stream.fileno()).st_size
                self._growing.update()
        except OSError as error:
            with suppress(OSError):  # what it still holds cannot be written either
                self.close()
            self._stream = None  # the next row goes on behind the last one that is whole
            if isinstance(error, BrokenPipeError) and not isinstance(self._target, str | PurePath):
                with open(os.devnull, "w") as nowhere:  # for what it still holds
                    os.dup2(nowhere.fileno(), self._target.fileno())
                raise UserError("the standard output: nobody reads it any more") from error
            if error.errno not in files.DISK_ERRORS:
                raise
            raise UserError(f"{self._target}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Closes the file."""
        if self._stream is not None and self._stream is not self._target:
            self._stream.close()
        if self._growing:
            self._growing.close()

    def _begin(self) -> TextIO:
        if isinstance(self._target, str | PurePath):
            path = to_path(self._target)
            self._growing = self._growing or files.Growing(path.parent)
            file = self._growing.folder / path.name
            if self._whole and file.exists():
                os.truncate(file, self._whole)
            else:
                self._whole = 0
            # surrogateescape: the name of an image need not be valid Unicode, and is kept
            self._stream = open(  # noqa: SIM115, closed by `close`
                file,
                "a" if self._whole else "w",
                encoding="utf-8",
                errors="surrogateescape",
                newline="",
            )
        else:
            self._stream = self._target
        if self._kind == "csv" and not self._whole:
            self._stream.write(csv_line(self._columns))
        return self._stream


def prediction_line(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """A row as in `PredictionStream.write`, as a record of a CSV file."""
    regions = row["regions"]
    cells = {**row, "regions": None if regions is None else len(regions)}
    cells |= (regions or [dict.fromkeys(REGION_COLUMNS)])[0]
    return csv_line([cells[column] for column in columns])


def _json_line(row: Mapping[str, Any]) -> str:
    columns = [name for name in PREDICTION_COLUMNS if name not in REGION_COLUMNS]
    content = {name: row[name] for name in (*columns, "terms")}
    return json.dumps(content, allow_nan=False) + "\n"


def format_table(table: Mapping[str, Any]) -> str:
    """A table for the terminal: categories and their mean, in percent, `-` for what does not exist.

    Args:
      table: {"categories": {name: metrics}, "mean": metrics}; values 0..1 or None.

    >>> row = {"n_normal": 2, "n_anomalous": 3, "i_auroc": 1.0, "mad": None}
    >>> format_table({"categories": {"nut": row}, "mean": row}).splitlines()[2].split()[:4]
    ['nut', '2', '3', '100.0']
    """
    header = ("category", *COUNTS, *METRICS)
    body = [
        (category, *(format_cell(name, values.get(name)) for name in header[1:]))
        for category, values in _table_rows(table)
    ]
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]
    rule = "  ".join("-" * width for width in widths)
    lines = [_align(row, widths) for row in (header, *body)]
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0
) -> list[str]:
    """The lines of a Markdown table.

    Args:
      header: of the columns.
      rows: of cells.
      numbers: so many columns, the last ones, are aligned to the right.

    >>> markdown_table(["a|b", "n"], [["c", "1"]], numbers=1)
    ['| a\\\\|b | n |', '| --- | ---: |', '| c | 1 |']
    """
    words = len(header) - numbers
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    rule = ["---"] * words + ["---:"] * numbers
    return [f"| {' | '.join(cells)} |" for cells in (escaped[0], rule, *escaped[1:])]


def format_cell(name: str, value: float | None) -> str:
    """A metric in percent with one decimal, as published tables have it; a count as it is."""
    if value is None:
        return "-"
    return str(value) if name in COUNTS else f"{100 * value:.1f}"


def _table_rows(table: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [*table["categories"].items(), ("mean", table["mean"])]


def _align(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The name to the left, numbers to the right."""
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *numbers])


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes `columns` of each row; None is an empty cell, and a float is read back equal."""
    # surrogateescape: the name of an image need not be valid Unicode, and is kept byte for byte
    with (
        files.replaced(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        stream.write(csv_line(columns))
        stream.writelines(csv_line([row[column] for column in columns]) for row in rows)


def csv_line(cells: Sequence[Any]) -> str:
    r"""One record and `\n`; a carriage return in a cell is quoted only if it ends records too."""
    record = io.StringIO(newline="")
    csv.writer(record, lineterminator="\r\n").writerow(cells)
    return record.getvalue().removesuffix("\r\n") + "\n"
