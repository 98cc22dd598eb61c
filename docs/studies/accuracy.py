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
IN_SHORT = ("i_auroc", "p_auroc", "aupro")
BASELINES = {
    "PaDiM": "inversion.paradigm=padim",
    "local retrieval": "inversion.paradigm=retrieval",
    "nearest neighbour": "inversion.paradigm=nearest_neighbour",
}
Known = dict[tuple[str, str], list[dict[str, Any]]]
"""`unified` or `one`, and a way of scoring -> category -> metrics, of each training."""
RESIDUALS = {
    "residual (r = 0.2), N(0, I)": ["inversion.noise_ratio=0.2", "scoring.prior=standard_normal"],
    "residual (r = 0.5), fitted": ["inversion.noise_ratio=0.5", "scoring.prior=fitted"],
}
"""One evaluation of the denoiser in place of an inversion."""
OF_ITS_TIME = ["diffusion.prediction=eps", "inversion.solver=ddim"]


class Model(NamedTuple):
    """A training, and the ways of scoring that are evaluated of it."""

    name: str
    options: list[str]
    ways: dict[str, list[str]]
    """Title in the table -> options of `eval`."""


def models(sets: Sequence[str], seeds: int, alone: bool) -> Iterator[Model]:
    """All of them: one for all sets, without a network and with one, and one for each set."""
    all_sets = f"data.categories={','.join(sets)}"
    none = ["train.num_steps=0"]
    baselines = {title: [option] for title, option in BASELINES.items()}
    yield Model("no_network", [*none, all_sets], {"ours, no network": [], **baselines})
    for seed in range(seeds):
        ways = {"ours, 300 steps": []}
        if seed == 0:
            ways |= {"reconstruction (r = 0.5)": ["inversion.paradigm=reconstruction"]}
            ways |= residuals("")
        yield Model(f"trained_{seed}", [f"train.seed={seed}", all_sets], ways)
    latents_as = (("none", "raw"), ("channel", "standardised")) if seeds else ()
    for stats, latents in latents_as:
        options = [f"train.latent_stats={stats}", *OF_ITS_TIME, all_sets]
        ways = {f"the paper's score, {latents} latents": []} | residuals(f", {latents} latents")
        yield Model(f"paper_{stats}", options, ways)
    for name in sets if alone else ():
        options = [*none, f"data.categories={name}"]
        yield Model(f"one_{name}", options, {"ours, no network": [], **baselines})


def residuals(where: str) -> dict[str, list[str]]:
    """Ways of scoring, of a trained model."""
    return {
        title + where: ["inversion.paradigm=residual", *options]
        for title, options in RESIDUALS.items()
    }


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


def cell(results: list[dict[str, float | None]], metrics: Sequence[str], join: str) -> str:
    """Means over seeds in percent, and their standard deviation where there are several seeds."""
    numbers = []
    for name in metrics:
        values = [100 * value for one in results if (value := one[name]) is not None]
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        numbers.append(f"{np.mean(values):.1f}{spread}" if values else "-")
    return join.join(numbers)


def tables(title: str, of: str, known: Known, sets: Sequence[str]) -> list[str]:
    """Lines of Markdown: the means of all sets, and what each set has."""
    mine = {way: results for (kind, way), results in known.items() if kind == of}
    lines = [f"{title}\n", f"| mean of {len(sets)} | {' | '.join(METRICS)} |"]
    lines.append("| --- " + "| ---: " * len(METRICS) + "|")
    for way, results in mine.items():
        lines.append(f"| {way} | {cell(_of('mean', results, of), METRICS, ' | ')} |")
    once = {way: results for way, results in mine.items() if "latents" not in way}
    lines += ["", f"| {' / '.join(IN_SHORT)} | {' | '.join(once)} |"]
    lines.append("| --- " + "| --- " * len(once) + "|")
    for name in sets:
        cells = [cell([_mean(_of(name, its, of))], IN_SHORT, " / ") for its in once.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def main(args: argparse.Namespace) -> None:
    """Runs what is missing and writes the tables."""
    sets = sorted(args.sets)
    known: Known = {}
    for model in models(sets, args.seeds, not args.unified):
        of = "one" if model.name.startswith("one_") else "unified"
        for title in model.ways:
            known.setdefault((of, title), []).append(evaluated(args.data, args.out, model, title))
    lines = tables("One model for all", "unified", known, sets)
    if not args.unified:
        lines += tables("One model a set", "one", known, sets)
    (args.out / "table.md").write_text("\n".join(lines))


def _of(name: str, results: list[dict[str, Any]], of: str) -> list[dict[str, float | None]]:
    """The metrics of a set, one for each seed; of models of one set, its own or the mean of all."""
    if of == "unified":
        return [result[name] for result in results]
    alone = {category: result[category] for result in results for category in result}
    alone.pop("mean")
    if name != "mean":
        return [alone[name]]
    return [_mean(list(alone.values()))]


def _mean(rows: list[dict[str, float | None]]) -> dict[str, float | None]:
    mean: dict[str, float | None] = {}
    for metric in METRICS:
        values = [one[metric] for one in rows if one[metric] is not None]
        mean[metric] = float(np.mean(values)) if values else None
    return mean


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that has the sets")
    parser.add_argument("out", type=Path, help="for workdirs, metrics and table.md")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--unified", action="store_true", help="no model of a set by itself")
    parser.add_argument("--seeds", type=int, default=3, help="trainings; 0: nothing that needs one")
    return parser


if __name__ == "__main__":
    main(_parser().parse_args())
