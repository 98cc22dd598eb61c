"""Makes the table and the figure of docs/rivals.md from what evaluations wrote.

    python docs/rivals_table.py runs/*-0 [--figure rivals.png]

A folder is a workdir in which `eval --out WORKDIR/published` and `eval --out WORKDIR/fitted` wrote.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METRICS = ("i_auroc", "i_ap", "i_f1_max", "p_auroc", "p_ap", "p_f1_max", "aupro", "mad")


def evaluations(folders: list[Path]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, comparison, what `metrics.json` says), of those that are there."""
    for folder in folders:
        for comparison in ("published", "fitted"):
            path = folder / comparison / "metrics.json"
            if path.is_file():
                yield folder.name, comparison, json.loads(path.read_text(encoding="utf-8"))


def percent(value: float | None) -> str:
    """With one decimal; `-` for what does not exist."""
    return "-" if value is None else f"{100 * value:.1f}"


def speed(found: dict[str, Any]) -> tuple[str, str]:
    """Images a second, and the median milliseconds of one image; `-` where not measured."""
    if not found["speed"]:
        return "-", "-"
    return (
        f"{found['speed']['images_per_second']:.0f}",
        f"{found['speed']['latency_ms_batch1']['p50']:.0f}",
    )


def rows(folders: list[Path]) -> Iterator[list[str]]:
    """A line for each evaluation: the means over categories, image AUROC of each."""
    for method, comparison, found in evaluations(folders):
        said = found["fusion"]["calibrated"]
        categories = [percent(each["i_auroc"]) for _, each in sorted(said["categories"].items())]
        means = [percent(said["mean"][metric]) for metric in METRICS]
        yield [method, comparison, str(found["nfe"]), *speed(found), *means, *categories]


def table(folders: list[Path]) -> str:
    """Markdown."""
    first = next(evaluations(folders))[2]["fusion"]["calibrated"]["categories"]
    header = ["method", "compared", "NFE", "images/s", "ms", *METRICS, *sorted(first)]
    rule = ["---"] * 2 + ["---:"] * (len(header) - 2)
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows(folders)])


def draw(folders: list[Path], path: Path) -> None:
    """Image AUROC against images a second, of the published comparisons."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for method, comparison, found in evaluations(folders):
        if comparison == "published" and found["speed"]:
            x = found["speed"]["images_per_second"]
            y = 100 * found["fusion"]["calibrated"]["mean"]["i_auroc"]
            axes.plot(x, y, "o")
            axes.annotate(f"{method} ({found['nfe']})", (x, y), fontsize=8)
    axes.set(xlabel="images / s", ylabel="image AUROC, %", xscale="log")
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    print(table(arguments.folders))
    if arguments.figure:
        draw(arguments.folders, arguments.figure)
