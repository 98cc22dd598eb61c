"""Makes the tables of docs/accuracy_standardised.md from what the sweeps wrote.

python docs/accuracy_tables.py runs/accuracy
"""

import csv
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

METHODS = {
    ("inversion", "standard_normal"): "InvAD, the paper's score",
    ("inversion", "fitted"): "InvAD, ours",
    ("padim", ""): "PaDiM",
    ("nearest_neighbour", ""): "nearest neighbour",
    ("reconstruction", ""): "reconstruction (r = 0.5)",
}
METRICS = ("i_auroc", "p_auroc", "aupro", "mad")
TERMS = ("nll", "map_range", "map_mean", "map_max", "map_top")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a sweep."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def cell(values: Iterable[str]) -> str:
    """Mean and standard deviation over seeds, in percent; `-` where the metric does not exist."""
    numbers = [100 * float(value) for value in values if value]
    if not numbers:
        return "-"
    spread = f" ± {np.std(numbers, ddof=1):.1f}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.1f}{spread}"


def table(header: list[str], rows: list[list[str]], texts: int) -> str:
    """Markdown; the first `texts` columns are text."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows]) + "\n"


def methods(rows: list[dict[str, str]], category: str, head: str) -> list[list[str]]:
    """A line for each method on one category."""
    lines = []
    for (paradigm, prior), title in METHODS.items():
        chosen = [
            row
            for row in rows
            if row["inversion.paradigm"] == paradigm
            and row["scoring.prior"] == prior
            and row["fusion"] == "calibrated"
            and row["category"] == category
        ]
        lines.append([head, title, *(cell(row[m] for row in chosen) for m in METRICS)])
    return lines


def grid(path: Path) -> str:
    """A line for each point: metrics of the mean over categories, image AUROC of each category."""
    rows = [row for row in read(path) if row["fusion"] == "calibrated"]
    names = list(rows[0])[: list(rows[0]).index("seed")]
    categories = sorted({row["category"] for row in rows} - {"mean"})
    header = [*names, "NFE", *(f"{m}, mean" for m in METRICS)]
    header += [f"{name}, i_auroc" for name in categories]
    body = []
    for point in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        ours = [row for row in rows if tuple(row[name] for name in names) == point]
        mean = [row for row in ours if row["category"] == "mean"]
        body.append(
            [*(value or "-" for value in point), ours[0]["nfe"]]
            + [cell(row[metric] for row in mean) for metric in METRICS]
            + [cell(r["i_auroc"] for r in ours if r["category"] == name) for name in categories]
        )
    return table(header, body, len(names))


def candidates(path: Path) -> str:
    """Image AUROC by each point and term, and which the other sets would choose for each set."""
    rows = [row for row in read(path) if row["fusion"] in TERMS]
    names = [*list(rows[0])[: list(rows[0]).index("seed")], "fusion"]
    categories = sorted({row["category"] for row in rows} - {"mean"})
    body, means = [], {}
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        ours = [row for row in rows if tuple(row[name] for name in names) == key]
        of = {c: [r["i_auroc"] for r in ours if r["category"] == c] for c in (*categories, "mean")}
        body.append([*key, *map(cell, of.values())])
        means[key] = np.array([np.mean([100 * float(v) for v in of[c]]) for c in categories])
    chosen = []
    for i, name in enumerate(categories):
        best = max(means, key=lambda key: np.mean(np.delete(means[key], i)))
        chosen.append([name, *best, f"{means[best][i]:.1f}"])
    names[-1] = "term"
    left_out = ["left out", *(f"{name}, chosen" for name in names), "i_auroc of the left out"]
    return (
        table([*names, *categories, "mean"], body, len(names))
        + "\n"
        + table(left_out, chosen, len(names) + 1)
    )


def main(folder: Path) -> None:
    """Prints all tables."""
    unified = read(folder / "unified" / "paradigms.csv")
    categories = sorted({row["category"] for row in unified} - {"mean"})
    header = ["set", "method", *METRICS]
    print("One model for all sets\n")
    lines = [line for name in [*categories, "mean"] for line in methods(unified, name, name)]
    print(table(header, lines, 2))
    print("One model a set\n")
    alone = {name: read(folder / name / "paradigms.csv") for name in categories}
    lines = [line for name, rows in alone.items() for line in methods(rows, name, name)]
    print(table(header, lines, 2))
    for name in ("states", "components", "steps", "ema"):
        print(f"{name.capitalize()}\n")
        print(grid(folder / "unified" / f"{name}.csv"))
    print("Candidates of the image score\n")
    print(candidates(folder / "unified" / "states.csv"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
