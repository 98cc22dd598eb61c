"""Makes the tables of docs/accuracy.md: every method on the same latents, unified and one by one.

    python docs/studies/accuracy.py ../shared/data runs/accuracy  # -> table.md there

Other folders in MVTec AD's layout: `--sets` names them. What is there already is not run again: the
same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from invad_jax import eval as eval_command
from invad_jax import train as train_command

CONFIG = str(Path(__file__).parents[2] / "configs" / "four_sets_unified.py")
SETS = ("aws_cookie", "bottle", "bsdata", "dobot_cubes")
METRICS = ("i_auroc", "p_auroc", "p_ap", "aupro", "mad")
BASELINES = {
    "PaDiM": "inversion.paradigm=padim",
    "local retrieval": "inversion.paradigm=retrieval",
    "nearest neighbour": "inversion.paradigm=nearest_neighbour",
}
OF_ITS_TIME = ["diffusion.prediction=eps", "inversion.solver=ddim"]


class Model(NamedTuple):
    """A training, and the ways of scoring that are evaluated of it."""

    name: str
    options: list[str]
    ways: dict[str, list[str]]
    """Title in the table -> options of `eval`."""


def models(sets: Sequence[str], seeds: int) -> Iterator[Model]:
    """All of them: one for all sets, without a network and with one, and one for each set."""
    all_sets = f"data.categories={','.join(sets)}"
    none = ["train.num_steps=0"]
    baselines = {title: [option] for title, option in BASELINES.items()}
    yield Model("no_network", [*none, all_sets], {"ours, no network": [], **baselines})
    for seed in range(seeds):
        ways = {"ours, 300 steps": []}
        if seed == 0:
            ways |= {"reconstruction (r = 0.5)": ["inversion.paradigm=reconstruction"]}
        yield Model(f"trained_{seed}", [f"train.seed={seed}", all_sets], ways)
    latents_as = (("none", "raw"), ("channel", "standardised")) if seeds else ()
    for stats, latents in latents_as:
        options = [f"train.latent_stats={stats}", *OF_ITS_TIME, all_sets]
        yield Model(f"paper_{stats}", options, {f"the paper's score, {latents} latents": []})
    for name in sets:
        options = [*none, f"data.categories={name}"]
        yield Model(f"one_{name}", options, {"ours, no network": [], **baselines})


def evaluated(data: Path, out: Path, model: Model, title: str) -> dict[str, Any]:
    """The metrics of a way of scoring, category -> metric -> value; trained if need be."""
    workdir, where = out / model.name, out / "metrics" / model.name / title
    if not (where / "metrics.json").is_file():
        given = ["--config", CONFIG, "--workdir", str(workdir)]
        assert train_command.cli([*given, "--set", f"data.root={data}", *model.options]) == 0
        options = [f"--set={option}" for option in model.ways[title]]
        command = ["--workdir", str(workdir), "--out", str(where), "--no-speed", *options]
        assert eval_command.cli(command) == 0
    fusion = json.loads((where / "metrics.json").read_text())["fusion"]["calibrated"]
    return {**fusion["categories"], "mean": fusion["mean"]}


def row(title: str, results: list[dict[str, float | None]]) -> str:
    """A line of Markdown: mean and, of several seeds, standard deviation, in percent."""
    cells = []
    for name in METRICS:
        values = [100 * value for one in results if (value := one[name]) is not None]
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.1f}{spread}" if values else "-")
    return f"| {title} | {' | '.join(cells)} |"


def main(args: argparse.Namespace) -> None:
    """Runs what is missing and writes the tables."""
    data, out, sets = args.data, args.out, sorted(args.sets)
    known: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for model in models(sets, args.seeds):
        of = "one" if model.name.startswith("one_") else "unified"
        for title in model.ways:
            known.setdefault((of, title), []).append(evaluated(data, out, model, title))
    lines = []
    for of, head in (("unified", "One model for all"), ("one", "One model a set")):
        lines += [f"{head}\n", f"| set | method | {' | '.join(METRICS)} |"]
        lines += ["| --- | --- " + "| ---: " * len(METRICS) + "|"]
        for name in (*sets, "mean"):
            for (kind, title), results in known.items():
                if kind == of:
                    lines.append(row(f"{name} | {title}", _of(name, results, of)))
        lines.append("")
    (out / "table.md").write_text("\n".join(lines))


def _of(name: str, results: list[dict[str, Any]], of: str) -> list[dict[str, float | None]]:
    """The metrics of a set, one for each seed; of models of one set, its own or the mean of all."""
    if of == "unified":
        return [result[name] for result in results]
    alone = {category: result[category] for result in results for category in result}
    alone.pop("mean")
    if name != "mean":
        return [alone[name]]
    mean = {}
    for metric in METRICS:
        values = [one[metric] for one in alone.values() if one[metric] is not None]
        mean[metric] = float(np.mean(values)) if values else None
    return [mean]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that has the sets")
    parser.add_argument("out", type=Path, help="for workdirs, metrics and table.md")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, default=3, help="trainings; 0: nothing that needs one")
    return parser


if __name__ == "__main__":
    main(_parser().parse_args())
