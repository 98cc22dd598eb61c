"""Makes the table and the figure of docs/rivals.md: each method trained here, all alike.

    python docs/studies/rivals.py runs/rivals --seeds 0,1,2  # -> table.md and rivals.svg there
    python docs/studies/rivals.py runs/rivals --methods diad,masked --seeds 0
    python docs/studies/rivals.py runs/others --data SETS --categories screw,pill

What is there already is not run again: the same command goes on where it was stopped. The table has
what is there, of any command. Speeds are measured last, of all methods in turn, in one process;
`speed.json` keeps them, and is deleted to measure again. Other sets, and other options of `train`
(--set; of the teachers too), want a folder of their own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import invad_jax
from invad_jax import eval as eval_command
from invad_jax import train as train_command
from invad_jax.config.rivals import FOUR_SETS
from invad_jax.evaluation.speed import measure_speed
from invad_jax.inference.predictor import Predictor
from invad_jax.io import files
from invad_jax.planning.flops import count_flops

CONFIGS = Path(__file__).parents[2] / "configs" / "rivals"
METRICS = ("i_auroc", "i_ap", "i_f1_max", "p_auroc", "p_ap", "p_f1_max", "aupro", "mad")
FITTED = ["scoring.prior=fitted"]
INVERTED = ["inversion.paradigm=inversion", "inversion.num_steps=3", *FITTED]
BOTH = {"by itself": [], "fitted": FITTED}
METHODS: dict[str, dict[str, list[str]]] = {
    "inversion": BOTH,
    "deco_diff": {**BOTH, "inverted, fitted": INVERTED},
    "deco_diff_class": {
        "class given": ["inversion.label=given"],
        "class inferred": ["inversion.label=inferred"],
        "class not told": [],
        "class inferred, fitted": ["inversion.label=inferred", *FITTED],
    },
    "transfusion": BOTH,
    "diad": {**BOTH, "inverted, fitted": INVERTED},
    "masked": {"by itself": [], "inverted, fitted": INVERTED},
    "masked_adaptive": {"by itself": [], "inverted, fitted": INVERTED},
    "omiad": BOTH,
    "omiad_adversarial": BOTH,
    "one_step": {"fitted": FITTED},
    "mad_ad": {**BOTH, "inverted, fitted": INVERTED},
}
"""A file of configs/rivals or of `VARIANTS` -> how images are compared -> options of `eval`."""
VARIANTS = {"omiad_adversarial": ("omiad", ["train.objective=omiad_adversarial"])}
"""The file that it is trained from, and options of `train`."""
TEACHER = {
    "omiad": "masked_adaptive",
    "omiad_adversarial": "masked_adaptive",
    "one_step": "inversion",
}
ROUNDS = 3
"""Of the clock, over all methods; the fastest counts, since others share the machine."""


class Way(NamedTuple):
    """A trained model, and how images are compared by it."""

    method: str
    title: str
    seed: int

    def workdir(self, out: Path) -> Path:
        return out / f"{self.method}-{self.seed}"

    def metrics(self, out: Path) -> Path:
        return self.workdir(out) / self.title.replace(", ", "_") / "metrics.json"

    @property
    def options(self) -> list[str]:
        return METHODS[self.method][self.title]


def ways(methods: list[str], seeds: list[int]) -> Iterator[Way]:
    """All of them, seed by seed."""
    for seed in seeds:
        for method in methods:
            for title in METHODS[method]:
                yield Way(method, title, seed)


def train(out: Path, method: str, seed: int, given: Sequence[str] = ()) -> None:
    """Trains a model, or goes on; after its teacher, if it has one. `given` are other options."""
    config, variant = VARIANTS.get(method, (method, []))
    options = [f"--set={option}" for option in (f"train.seed={seed}", *variant, *given)]
    if teacher := TEACHER.get(method):
        train(out, teacher, seed, given)
        options.append(f"--set=train.teacher={Way(teacher, '', seed).workdir(out)}")
    workdir = Way(method, "", seed).workdir(out)
    command = ["--config", str(CONFIGS / f"{config}.py"), "--workdir", str(workdir), *options]
    assert train_command.cli(command) == 0


def evaluate(
    out: Path,
    way: Way,
    given: Sequence[str] = (),
    categories: Sequence[str] = FOUR_SETS.categories,
) -> None:
    """Writes the metrics of a way, if they are not there."""
    if way.metrics(out).is_file():
        return
    train(out, way.method, way.seed, given)
    folder = way.metrics(out).parent
    if "inversion.label=given" not in way.options:
        _eval(way.workdir(out), folder, way.options)
        return
    # Whoever gives the class knows it: one evaluation for each.
    for number, name in enumerate(sorted(categories)):
        told = [f"inversion.label={number}", f"data.categories={name}"]
        _eval(way.workdir(out), folder / name, told)
    files.write_json(way.metrics(out), joined(folder))


def _eval(workdir: Path, folder: Path, options: list[str]) -> None:
    if not (folder / "metrics.json").is_file():
        command = ["--workdir", str(workdir), "--out", str(folder), "--no-speed"]
        assert eval_command.cli([*command, *(f"--set={option}" for option in options)]) == 0


def joined(folder: Path) -> dict[str, Any]:
    """The metrics of evaluations of one category each, as those of one evaluation."""
    each = [json.loads(path.read_text()) for path in sorted(folder.glob("*/metrics.json"))]
    tables = [one["fusion"]["calibrated"]["categories"] for one in each]
    categories = {name: row for table in tables for name, row in table.items()}
    known = {
        metric: [row[metric] for row in categories.values() if row[metric] is not None]
        for metric in METRICS
    }
    mean = {metric: float(np.mean(of)) if of else None for metric, of in known.items()}
    calibrated = {"categories": categories, "mean": mean}
    return {"nfe": each[0]["nfe"], "fusion": {"calibrated": calibrated}}


def measured(out: Path, known: list[Way]) -> dict[str, dict[str, float]]:
    """Way -> images a second, milliseconds of one image, GFLOP of one image, parameters."""
    path = out / "speed.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    first = {f"{way.method}: {way.title}": way for way in reversed(known)}
    given = "deco_diff_class: class given"
    if given in first:  # as fast as any number
        first[given] = first[given]._replace(title="class not told")
    if first.keys() <= found.keys():
        return found
    models = {name: invad_jax.load(way.workdir(out), way.options) for name, way in first.items()}
    found = {name: cost(model) for name, model in models.items()}
    for _ in range(ROUNDS):
        for name, model in models.items():
            speed = measure_speed(model.trained, model.normals["path"])
            one, ms = found[name], speed["latency_ms_batch1"]["p50"]
            one["images/s"] = max(one["images/s"], speed["images_per_second"])
            one["ms"] = min(one["ms"], ms)
    files.write_json(path, found)
    return found


def cost(model: Predictor) -> dict[str, float]:
    """What does not depend on the machine."""
    trained = model.trained
    side = trained.config.data.image_size
    image = np.zeros((1, side, side, 3), np.uint8)
    traced = jax.make_jaxpr(trained.detector.predict)(trained.variables, image)
    parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(trained.network))
    gflop = count_flops(traced) / 1e9
    return {"images/s": 0.0, "ms": np.inf, "GFLOP": gflop, "M parameters": parameters / 1e6}


def percent(values: list[float | None]) -> str:
    """Mean and, of several seeds, standard deviation; `-` where there are none."""
    known = [100 * value for value in values if value is not None]
    spread = f" ± {np.std(known, ddof=1):.1f}" if len(known) > 1 else ""
    return f"{np.mean(known):.1f}{spread}" if known else "-"


def rows(out: Path, known: list[Way]) -> Iterator[list[str]]:
    """The head of the table, and a row for each way: seeds, costs, means over the sets, image
    AUROC of each."""
    speeds, by_way = measured(out, known), {}
    for way in known:
        said = json.loads(way.metrics(out).read_text())
        by_way.setdefault((way.method, way.title), []).append(said)
    sets = sorted(next(iter(by_way.values()))[0]["fusion"]["calibrated"]["categories"])
    costs = ("GFLOP", "images/s", "ms", "M parameters")
    yield ["method", "compared by", "seeds", "NFE", *costs, *METRICS, *sets]
    for (method, title), of_seeds in by_way.items():
        found = [one["fusion"]["calibrated"] for one in of_seeds]
        means = [percent([one["mean"][metric] for one in found]) for metric in METRICS]
        each = [percent([one["categories"][name]["i_auroc"] for one in found]) for name in sets]
        speed = speeds[f"{method}: {title}"]
        its_costs = [f"{speed[cost]:.3g}" for cost in costs]
        yield [method, title, str(len(found)), str(of_seeds[0]["nfe"]), *its_costs, *means, *each]


def draw(table: list[list[str]], path: Path) -> None:
    """Image AUROC against images a second: a circle by itself, a square with a fitted prior, a
    triangle inverted."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    head, *lines = table
    colours, named = plt.get_cmap("tab20").colors, set()
    for line in lines:
        said = dict(zip(head, line, strict=True))
        method, way = said["method"], said["compared by"]
        x, y = float(said["images/s"]), float(said["i_auroc"].split()[0])
        marker = "^" if "inverted" in way else "s" if "fitted" in way else "o"
        label = None if method in named else method
        colour = colours[list(METHODS).index(method)]
        axes.plot(x, y, marker, color=colour, label=label, markeredgecolor="black", alpha=0.8)
        named.add(method)
    axes.set(xlabel="images / s", ylabel="image AUROC, %")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    axes.grid(alpha=0.3)
    plt.rcParams["svg.hashsalt"] = "rivals"  # the same bytes each time
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def main(
    out: Path,
    methods: list[str],
    seeds: list[int],
    given: Sequence[str] = (),
    categories: Sequence[str] = FOUR_SETS.categories,
) -> None:
    """Runs what is missing; the table and the figure of all that is there."""
    for way in ways(methods, seeds):
        evaluate(out, way, given, categories)
    known = [way for way in ways(list(METHODS), list(range(100))) if way.metrics(out).is_file()]
    known.sort(key=lambda way: list(METHODS).index(way.method))
    table = list(rows(out, known))
    rule = ["---"] * 2 + ["---:"] * (len(table[0]) - 2)
    lines = [f"| {' | '.join(row)} |" for row in [table[0], rule, *table[1:]]]
    (out / "table.md").write_text("\n".join(lines) + "\n")
    draw(table, out / "rivals.svg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--data", metavar="ROOT", help="of other sets; with --categories")
    parser.add_argument("--categories", metavar="A,B", help="folders of ROOT")
    parser.add_argument("--set", nargs="+", default=[], metavar="section.option=value")
    args = parser.parse_args()
    if (args.data is None) != (args.categories is None):
        parser.error("--data and --categories: give both, or neither")
    categories, given = FOUR_SETS.categories, list(args.set)
    if args.data:
        categories = tuple(args.categories.split(","))
        given += [f"data.root={args.data}", f"data.categories={args.categories}"]
    seeds = [int(seed) for seed in args.seeds.split(",")]
    main(args.out, args.methods.split(","), seeds, given, categories)
