"""The published recipe to the paper's number of samples, beside the same network in whitened
coordinates: does the paper's score arrive where whitening starts?

    python docs/studies/long_run.py ../shared/data runs/long_run  # -> short.md, table.md there

Both train one DiT of 1 M parameters for all four sets on 300 epochs of their 632 normal images, as
the paper does: the one on raw latents for eps (`published`), the other for v in coordinates where
normal latents are N(0, I) (`whitened`). Every tenth of the way it is evaluated under N(0, I).
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from matplotlib.figure import Figure

from invad_jax import eval as eval_command

CONFIG = str(Path(__file__).parents[2] / "configs" / "four_sets_unified.py")
EPOCHS, IMAGES, BATCH, TENTHS = 300, 632, 16, 10
EVERY = EPOCHS * IMAGES // BATCH // TENTHS
SHARED = [
    "data.holdout_fraction=0",
    f"train.num_steps={EVERY * TENTHS}",
    f"train.batch_size={BATCH}",
    f"train.checkpoint_every={EVERY}",
    "train.learning_rate=2e-4",
    f"train.warmup_steps={40 * IMAGES // BATCH}",
]
"""The published schedule: 40 epochs of warm-up, cosine to the end. The rate is four times the
published one, for a network of a sixteenth of its width."""
RUNS = {
    "published": [
        "train.latent_stats=none",
        "diffusion.prediction=eps",
        "inversion.solver=ddim",
        "train.ema_decay=0.999",
        "inversion.use_ema=false",
    ],
    "whitened": [],
}
WAYS = tuple(itertools.product((1, 3, 10), ("linspace", "paper")))
METRICS = ("i_auroc", "p_auroc", "p_ap", "aupro", "mad")


def train(data: Path, out: Path, options: list[str]) -> list[Path]:
    """Trains in a process of its own, and puts a workdir of each tenth aside."""
    workdir, tenths = out / "run", []
    given = ["--config", CONFIG, "--workdir", str(workdir), "--set", f"data.root={data}"]
    command = [sys.executable, "-m", "invad_jax.train", *given, *SHARED, *options]
    process = subprocess.Popen(command)
    for step in range(EVERY, EVERY * TENTHS + 1, EVERY):
        checkpoint, aside = workdir / "checkpoints" / str(step), out / str(step)
        while not (checkpoint.is_dir() or aside.is_dir()):
            if process.poll() is not None and not checkpoint.is_dir():
                raise SystemExit(f"{workdir}: the training ended before step {step}")
            time.sleep(1)
        if not aside.is_dir():
            shutil.copytree(checkpoint, aside / "checkpoints" / str(step))
            for path in (workdir / "config.json", *workdir.glob("coordinates.npz")):
                shutil.copy(path, aside)
        tenths.append(aside)
    process.wait()
    return tenths


def measure(workdir: Path, options: list[str]) -> dict[str, float]:
    """The mean over sets of each metric, percent; of the paper's fusion, too."""
    out = workdir / "eval"
    given = ["--workdir", str(workdir), "--out", str(out), "--no-speed", "--set", *options]
    assert eval_command.cli(given) == 0
    fusion = json.loads((out / "metrics.json").read_text())["fusion"]
    values = {name: 100 * fusion["calibrated"]["mean"][name] for name in METRICS}
    return values | {"test_minmax": 100 * fusion["test_minmax"]["mean"]["i_auroc"]}


def main(data: Path, out: Path, names: list[str]) -> None:
    """Trains and writes a row as soon as it is known; one that is there is not made again."""
    table = out / "table.md"
    table.parent.mkdir(parents=True, exist_ok=True)
    if not table.exists():
        header = ("run", "step", "S", "spacing", *METRICS, "i_auroc by test_minmax")
        rule = "| --- | ---: | ---: | --- " + "| ---: " * (len(METRICS) + 1) + "|"
        table.write_text(f"| {' | '.join(header)} |\n{rule}\n")
    for name in names:
        for workdir in train(data, out / name, RUNS[name]):
            for steps, spacing in WAYS:
                cells = [name, workdir.name, str(steps), spacing]
                if cells in [row[:4] for row in rows(table)]:
                    continue
                options = [f"inversion.num_steps={steps}", f"inversion.spacing={spacing}"]
                numbers = [f"{value:.1f}" for value in measure(workdir, options).values()]
                with table.open("a") as stream:
                    stream.write(f"| {' | '.join([*cells, *numbers])} |\n")
    (out / "short.md").write_text(short(table))
    plot(table, out / "long_run.png")


def rows(table: Path) -> list[list[str]]:
    """Its cells, without the head."""
    return [line.strip("| ").split(" | ") for line in table.read_text().splitlines()[2:]]


def short(table: Path) -> str:
    """Image AUROC / AUPRO: a row for each tenth, a column for each way of inverting."""
    i_auroc, aupro = (4 + METRICS.index(metric) for metric in ("i_auroc", "aupro"))
    known = {tuple(row[:4]): f"{row[i_auroc]} / {row[aupro]}" for row in rows(table)}
    titles = [f"S = {steps}, {spacing}" for steps, spacing in WAYS]
    lines = [
        f"| run | epochs | {' | '.join(titles)} |",
        "| --- | ---: " + "| --- " * len(WAYS) + "|",
    ]
    for name, step in itertools.product(RUNS, range(EVERY, EVERY * TENTHS + 1, EVERY)):
        cells = [known.get((name, str(step), str(S), spacing), "-") for S, spacing in WAYS]
        lines.append(f"| {name} | {step * BATCH // IMAGES} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(table: Path, picture: Path) -> None:
    """Draws image AUROC and AUPRO of three steps over the epochs of training."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    for ax, metric in zip(figure.subplots(1, 2), ("i_auroc", "aupro"), strict=True):
        column = 4 + METRICS.index(metric)
        for name, colour in (("published", "tab:red"), ("whitened", "tab:blue")):
            ours = [row for row in rows(table) if row[0] == name and row[2:4] == ["3", "linspace"]]
            ours.sort(key=lambda row: int(row[1]))
            epochs = [int(row[1]) * BATCH / IMAGES for row in ours]
            ax.plot(epochs, [float(row[column]) for row in ours], "o-", color=colour, label=name)
        ax.set(xlabel="epochs", ylabel=f"{metric}, %", ylim=(0, 100), xlim=(0, EPOCHS))
    ax.legend(frameon=False)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(RUNS))
