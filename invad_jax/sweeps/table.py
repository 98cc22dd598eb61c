"""The results of a sweep as a tidy CSV, a Markdown table and a plot.

Values are in [0, 1] in the CSV, and in percent in the table and the plot.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from invad_jax.config import TERMS
from invad_jax.io import files
from invad_jax.report import tables
from invad_jax.report.tables import COUNTS, METRICS
from invad_jax.sweeps.grid import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
"""The swept options (text, or None where one has no effect), `seed`, `run`, `nfe`, `fusion`,
`category`, the counts and the metrics (0..1 or None)."""
Point = tuple[str | None, ...]
"""Values of the swept options."""

_SHORT = {"nll": "NLL", "map_range": "Diff"}
COLUMNS = (
    ("I-AUROC", "calibrated", "i_auroc"),
    ("I-AUROC, test_minmax", "test_minmax", "i_auroc"),
    *(
        (f"I-AUROC, {_SHORT.get(term, term.removeprefix('map_'))} alone", term, "i_auroc")
        for term in TERMS
    ),
    ("P-AUROC", "calibrated", "p_auroc"),
    ("AUPRO", "calibrated", "aupro"),
    ("mAD", "calibrated", "mad"),
    ("mAD, test_minmax", "test_minmax", "mad"),
)
"""(title, fusion, metric) of the table."""
_FUSIONS = ("calibrated", "test_minmax", *TERMS)
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of Okabe and Ito, told apart by colour-blind eyes."""
_MARKERS = "osD^vPX"


def rows(names: Sequence[str], cell: Cell, result: Mapping[str, Any]) -> list[Row]:
    """The rows of one cell: each fusion, each category and their mean.

    Args:
      names: the swept options.
      cell: of the grid.
      result: `nfe`, and `fusion` as in `metrics.json`.
    """
    begin: Row = dict(zip(names, cell.values, strict=True))
    begin |= {"seed": cell.seed, "run": cell.run, "nfe": result["nfe"]}
    return [
        {**begin, "fusion": fusion, "category": category, **values}
        for fusion, table in result["fusion"].items()
        for category, values in (*table["categories"].items(), ("mean", table["mean"]))
    ]


def summary(cell: Cell, result: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    point = ", ".join(value for value in cell.values if value is not None)
    value = result["fusion"]["calibrated"]["mean"]["i_auroc"]
    return f"{point}: I-AUROC {'-' if value is None else format(100 * value, '.1f')}"


def write(
    stem: Path,
    names: Sequence[str],
    cells: Sequence[Cell],
    results: Sequence[Mapping[str, Any]],
    command: str,
) -> None:
    """Writes `<stem>.csv`, `<stem>.md` and `<stem>.png`.

    Args:
      stem: path of the files without their endings.
      names: the swept options.
      cells: of the grid, in its order.
      results: of each cell: `fusion` as in `metrics.json`, `nfe`, `date` and `device`.
      command: that makes them again.
    """
    table = [row for c, r in zip(cells, results, strict=True) for row in rows(names, c, r)]
    columns = (*names, "seed", "run", "nfe", "fusion", "category", *COUNTS, *METRICS)
    tables.write_csv(stem.with_name(f"{stem.name}.csv"), columns, table)
    seen = {
        "Seed": [cell.seed for cell in cells],
        "Category": [row["category"] for row in table if row["category"] != "mean"],
        "Device": [result["device"] for result in results],
        "Date": [result["date"] for result in results],
    }
    facts = " ".join(
        f"{word}: {', '.join(map(str, dict.fromkeys(items)))}." for word, items in seen.items()
    )
    page = markdown(names, table, f"Command: `{command}`\n\n{facts}")
    files.write_text(stem.with_name(f"{stem.name}.md"), page)
    write_plot(stem.with_name(f"{stem.name}.png"), names, table)


def markdown(names: Sequence[str], rows: Sequence[Row], header: str) -> str:
    """The means over the categories, and each category's image AUROC, below a header."""
    categories = list(dict.fromkeys(row["category"] for row in rows if row["category"] != "mean"))
    lines = [header, "", "In percent: mean over seeds (lowest..highest).", ""]
    lines += _table(names, rows, [(*column, "mean") for column in COLUMNS])
    if len(categories) > 1:
        columns = [(name, "calibrated", "i_auroc", name) for name in categories]
        lines += ["", "I-AUROC (calibrated) of each category:", "", *_table(names, rows, columns)]
    return "\n".join(lines) + "\n"


def _table(
    names: Sequence[str], rows: Sequence[Row], columns: Sequence[tuple[str, str, str, str]]
) -> list[str]:
    """A Markdown table, a line for each point; columns without any value are left out.

    Args:
      names: the swept options.
      rows: of all cells.
      columns: (title, fusion, metric, category).
    """
    points = _points(names, rows)
    kept = [c for c in columns if any(_values(of_point, *c[1:]) for of_point in points.values())]
    header = [*names, "NFE", *(title for title, *_ in kept)]
    body = [
        [
            *("-" if value is None else value for value in point),
            str(of_point[0]["nfe"]),
            *(_spread(_values(of_point, *what)) for _, *what in kept),
        ]
        for point, of_point in points.items()
    ]
    return tables.markdown_table(header, body, numbers=len(header) - len(names))


def _points(names: Sequence[str], rows: Sequence[Row]) -> dict[Point, list[Row]]:
    """Rows by the values of the swept options, in the order of the grid."""
    points: dict[Point, list[Row]] = {}
    for row in rows:
        points.setdefault(tuple(row[name] for name in names), []).append(row)
    return points


def _values(rows: Sequence[Row], fusion: str, metric: str, category: str) -> list[float]:
    """One metric of all seeds, in percent; empty where it does not exist."""
    return [
        100 * row[metric]
        for row in rows
        if row["fusion"] == fusion and row["category"] == category and row[metric] is not None
    ]


def _spread(values: Sequence[float]) -> str:
    """Mean and range.

    >>> _spread([90.0, 92.0]), _spread([90.0]), _spread([])
    ('91.0 (90.0..92.0)', '90.0', '-')
    """
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f}..{max(values):.1f})"


def write_plot(path: Path, names: Sequence[str], rows: Sequence[Row]) -> None:
    """The first swept option against each metric, a line for each combination of the others.

    Points are means over seeds, bars reach from the lowest to the highest. Where only one option is
    swept, the panel of the image AUROC has a line for each way to score.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = _points(names, rows)
    panels = [
        (title, metric)
        for title, fusion, metric in COLUMNS
        if fusion == "calibrated"
        and (metric == "i_auroc" or any(row[metric] is not None for row in rows))
    ]
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, metric) in zip(axes, panels, strict=True):
        ax.set_title(title)
        ax.set_xlabel(names[0])
        fusions = _FUSIONS if metric == "i_auroc" and len(names) == 1 else ("calibrated",)
        _draw_panel(ax, points, fusions, metric)
    axes[0].set_ylabel("percent")
    if len(axes[0].containers) > 1:
        axes[0].legend(frameon=False, fontsize=8)
    with files.replaced(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _draw_panel(
    ax: Axes, points: Mapping[Point, Sequence[Row]], fusions: Sequence[str], metric: str
) -> None:
    ticks = list(dict.fromkeys(first for first, *_ in points if first is not None))
    lines = list(itertools.product(dict.fromkeys(point[1:] for point in points), fusions))
    for i, (others, fusion) in enumerate(lines):
        # Where the first option has no effect, the line is level.
        at = [points.get((tick, *others)) or points.get((None, *others), ()) for tick in ticks]
        spreads = [_values(cell, fusion, metric, "mean") for cell in at]
        x = np.arange(len(ticks)) + 0.04 * (i - (len(lines) - 1) / 2)  # bars beside each other
        label = ", ".join([*filter(None, others), *([fusion] if len(fusions) > 1 else [])])
        look = {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}
        _draw_line(ax, x, spreads, label, look)
    ax.set_xticks(range(len(ticks)), ticks)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_line(
    ax: Axes, x: np.ndarray, spreads: Sequence[Sequence[float]], label: str, look: dict[str, Any]
) -> None:
    """Mean and range of each tick that has values."""
    there = [i for i, values in enumerate(spreads) if values]
    mean = np.array([np.mean(spreads[i]) for i in there])
    below = mean - [min(spreads[i]) for i in there]
    above = [max(spreads[i]) for i in there] - mean
    error = np.maximum([below, above], 0)  # a mean of equal values can be a rounding off them
    ax.errorbar(x[there], mean, error, label=label, markersize=5, capsize=3, linewidth=1.5, **look)
