"""Thresholds from few normal images: false alarms on new good ones, and defects found.

    python docs/studies/false_alarms.py ../shared/data runs/false_alarms  # -> table.md there

For each set and number of normal images, drawn at random five times, a detector is fitted without a
network (`train.num_steps=0`) by the commands that a user types. New good images are the good test
images and the training images that were not drawn. The rate asked is the default, 1 %.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from invad_jax import eval as eval_command
from invad_jax import train as train_command
from invad_jax.normality.promise import promised_rate

SIZES = {
    "aws_cookie": (10, 20, 31),
    "bottle": (10, 20, 40, 209),
    "dobot_cubes": (10, 20, 40, 92),
    "bsdata": (20, 100, 300),
}
"""Set -> numbers of normal images; the last are all."""
DRAWS = 5
RATE = 0.01
HEADER = (
    "set",
    "normal images",
    "draws",
    "false alarms, % of new good",
    "worst draw",
    "defects found, %",
    "worst draw",
    "promised at 95 %, %",
)
CONFIG = str(Path(__file__).parents[2] / "configs" / "folder.py")


def draw(source: Path, target: Path, count: int, seed: int) -> None:
    """Links a data set with `count` of its training images; the rest are good test images."""
    shutil.rmtree(target, ignore_errors=True)
    train = sorted((source / "train" / "good").iterdir())
    chosen = set(np.random.default_rng(seed).permutation(len(train))[:count].tolist())
    for i, path in enumerate(train):
        link(path, target / ("train" if i in chosen else "test") / "good" / f"t_{path.name}")
    for folder in (source / "test").iterdir():
        for path in folder.iterdir():
            link(path, target / "test" / folder.name / path.name)


def link(path: Path, to: Path) -> None:
    """A symbolic link, with the folders above it."""
    to.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(path.resolve(), to)


def measure(data: Path, workdir: Path) -> dict[str, int]:
    """Fits, evaluates, and counts decisions."""
    shutil.rmtree(workdir, ignore_errors=True)
    given = ["--config", CONFIG, "--workdir", str(workdir)]
    options = [f"data.root={data}", "train.num_steps=0"]
    assert train_command.cli([*given, "--set", *options]) == 0
    assert eval_command.cli(["--workdir", str(workdir), "--no-speed"]) == 0
    counts = dict.fromkeys(("good", "false alarms", "anomalous", "found"), 0)
    with (workdir / "eval" / "scores.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            all_of, called = (
                ("anomalous", "found") if row["gt_label"] == "1" else ("good", "false alarms")
            )
            counts[all_of] += 1
            counts[called] += row["decision"] == "anomalous"
    return counts


def main(source: Path, out: Path) -> None:
    """Writes a Markdown table, a row as soon as it is known."""
    table = out / "table.md"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(f"| {' | '.join(HEADER)} |\n| --- {'| ---: ' * (len(HEADER) - 1)}|\n")
    for name, sizes in SIZES.items():
        for count in sizes:
            draws = range(1 if count == sizes[-1] else DRAWS)
            results = []
            for seed in draws:
                draw(source / name, out / "data", count, seed)
                results.append(measure(out / "data", out / "workdir"))
            alarms = [100 * one["false alarms"] / one["good"] for one in results]
            found = [100 * one["found"] / one["anomalous"] for one in results]
            numbers = np.mean(alarms), max(alarms), np.mean(found), min(found)
            promised = 100 * promised_rate(count, max(1, math.floor(RATE * (count + 1))))
            cells = name, str(count), str(len(draws)), *(f"{x:.1f}" for x in (*numbers, promised))
            with table.open("a") as stream:
                stream.write(f"| {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
