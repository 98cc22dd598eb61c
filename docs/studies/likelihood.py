"""Does the volume term of the likelihood help? Image AUROC with and without it; docs/likelihood.md.

    python docs/studies/likelihood.py --workdir runs/u0 runs/u1 runs/u2 --steps 3 10 --limit 20

Two likelihoods of `ode_likelihood.py`, by rows of their terms. `map`: all S steps
to x_T, the latent that the paper scores, volume by `mean_stretch`. `ODE`: the steps that end at a
noise level above alpha_bar 0, one less as published, volume by `first_order`. A row is the mean
over workdirs, and the standard deviation. Nothing is written to the workdirs.

`--evaluation NAME` adds the NLL that an evaluation in the workdirs has kept, by the same number of
steps and any prior, alone and less the volume of `map`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ode_likelihood import (
    finite_steps,
    first_order,
    invert_with_products,
    log_prior,
    mean_stretch,
    volume,
)

import invad_jax
from invad_jax.config import Config
from invad_jax.data import layouts
from invad_jax.detector import standardise
from invad_jax.errors import UserError
from invad_jax.evaluation.saved import read_run
from invad_jax.inference.encode import encode_samples
from invad_jax.inference.model import Model
from invad_jax.metrics import image_metrics
from invad_jax.paradigms.levels import rising_plan
from invad_jax.runtime import cli

BATCH_SIZE = 16
Table = dict[str, np.ndarray]
"""Name of a score -> (N,), higher is more anomalous."""


def main(args: argparse.Namespace) -> None:
    """Prints two tables for each number of steps."""
    if min(args.steps) < 2 or args.probes < 1 or args.limit < 1:
        raise UserError("--steps: at least 2 (one step leaves the ODE none); others: at least 1")
    for num_steps in args.steps:
        aurocs, sizes = [], []
        for workdir in args.workdir:
            model = invad_jax.load(
                workdir, [f"inversion.num_steps={num_steps}", "scoring.prior=standard_normal"]
            )
            samples, latents = test_latents(model, args.limit)
            scores, noise = likelihoods(model, latents, args.probes)
            if args.evaluation:
                kept = kept_nll(Path(workdir) / args.evaluation, samples) / latents[0].size
                scores[f"{args.evaluation}: NLL"] = kept
                volume_name = f"map: -volume, P = {args.probes}"
                scores[f"{args.evaluation}: NLL - volume of map"] = kept + scores[volume_name]
            aurocs.append({name: by_category(samples, score) for name, score in scores.items()})
            sizes.append(summary(samples, scores, noise))
        print(f"\nS = {num_steps}, {len(samples)} test images; image AUROC, percent\n")
        print_rows("score", aurocs, "{:.1f} ± {:.1f}")
        print("\nnats a number, over normal images of a category\n")
        print_rows("score", sizes, "{:.4f} ± {:.4f}")


def test_latents(model: Model, limit: int) -> tuple[list[layouts.Sample], np.ndarray]:
    """Of each category and label at most `limit` test images, evenly spaced, and their latents."""
    samples = layouts.load_dataset(model.config.data).test
    latents = np.asarray(encode_samples(samples, model.encoder, model.config, model.mesh))
    kinds: dict[tuple[str, int], list[int]] = {}
    for row, sample in enumerate(samples):
        kinds.setdefault((sample.category, sample.gt_label), []).append(row)
    rows = [
        members[i]
        for members in kinds.values()
        for i in np.unique(np.linspace(0, len(members) - 1, min(limit, len(members))).astype(int))
    ]
    return [samples[row] for row in rows], latents[rows]


def likelihoods(model: Model, latents: np.ndarray, num_probes: int) -> tuple[Table, Table]:
    """All scores, and of each volume term the estimate of every probe alone, (P, N).

    Raises:
      UserError: the model takes other latents or other steps than these formulas do.
    """
    refuse_others(model.config)
    plan, stats = rising_plan(model.config), model.latent_stats
    finite = finite_steps(plan)
    dimension = math.prod(latents.shape[1:])
    probes = jax.random.rademacher(
        jax.random.key(0), (num_probes, 1, *latents.shape[1:]), jnp.float32
    )

    @jax.jit
    def terms(latent: jax.Array) -> tuple[jax.Array, ...]:
        states, products = invert_with_products(
            lambda x, t: model.detector.denoise(model.network, x, t),
            standardise(latent, stats),
            plan,
            probes,
        )
        ends = (states[0], states[-1], states[len(finite.timesteps)])
        return *map(log_prior, ends), products

    padded = np.resize(latents, (-(-len(latents) // BATCH_SIZE) * BATCH_SIZE, *latents.shape[1:]))
    batches = padded.reshape(-1, BATCH_SIZE, *latents.shape[1:])
    parts = zip(*(jax.device_get(terms(batch)) for batch in batches), strict=True)
    at_x0, at_map, at_ode, products = (
        np.concatenate(list(part), axis=-1)[..., : len(latents)] for part in parts
    )  # (N,) thrice, (S, P, N)

    def of_map(trace: np.ndarray) -> np.ndarray:  # (S, N) -> (N,)
        return np.asarray(volume(mean_stretch, jnp.asarray(trace), dimension, plan))

    def of_ode(trace: np.ndarray) -> np.ndarray:
        return np.asarray(
            volume(first_order, jnp.asarray(trace[: len(finite.timesteps)]), dimension, finite)
        )

    scores, alone = {"no network: -log N(x0)": -at_x0}, {}
    for name, prior, of in (("map", at_map, of_map), ("ODE", at_ode, of_ode)):
        scores[f"{name}: -log N(x_T)"] = -prior
        for count in sorted({1, num_probes}):
            estimate = of(products[:, :count].mean(axis=1))
            scores[f"{name}: -log N(x_T) - volume, P = {count}"] = -prior - estimate
            scores[f"{name}: -volume, P = {count}"] = -estimate
        alone[name] = np.stack([of(products[:, p]) for p in range(num_probes)])
    for table in (scores, alone):
        for name in table:
            table[name] = table[name] / dimension
    return scores, alone


def refuse_others(config: Config) -> None:
    """Raises UserError for what the volume terms are not of: whitened latents, and other steps."""
    for found, refused in (
        (f"train.latent_stats={config.train.latent_stats}", "train.latent_stats=whiten"),
        (f"inversion.solver={config.inversion.solver}", "inversion.solver=angle"),
    ):
        if found == refused:
            raise UserError(
                f"{refused}: the volume terms here are of standardised or raw latents, and of the "
                "steps of inversion.solver=ddim"
            )


def kept_nll(folder: Path, samples: Sequence[layouts.Sample]) -> np.ndarray:
    """The NLL of the samples in an evaluation's folder, (N,) nats."""
    run = read_run(folder)
    nll = dict(zip(run.paths, run.terms["nll"], strict=True))
    missing = [sample.path for sample in samples if sample.path not in nll]
    if missing:
        raise UserError(f"{folder}: no score of {missing[0]}; evaluate these test images first")
    return np.array([nll[sample.path] for sample in samples])


def groups(samples: Sequence[layouts.Sample]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The categories in order, the category of each sample, and its label."""
    category = np.array([sample.category for sample in samples])
    return sorted(set(category)), category, np.array([sample.gt_label for sample in samples])


def by_category(samples: Sequence[layouts.Sample], score: np.ndarray) -> dict[str, float]:
    """Image AUROC of each category and their mean, percent."""
    names, category, label = groups(samples)
    row = {}
    for name in names:
        its = category == name
        row[name] = 100 * (image_metrics(score[its], label[its])["i_auroc"] or math.nan)
    return {**row, "mean": float(np.mean(list(row.values())))}


def summary(
    samples: Sequence[layouts.Sample], scores: Table, noise: Table
) -> dict[str, dict[str, float]]:
    """Size and spread of each score over normals, and the spread between probes, by term."""
    names, category, label = groups(samples)
    normal, anomalous = ([(category == n) & (label == kind) for n in names] for kind in (0, 1))
    rows = {}
    for name, score in scores.items():
        shift = [score[a].mean() - score[g].mean() for a, g in zip(anomalous, normal, strict=True)]
        rows[name] = {
            "mean": float(np.mean([score[g].mean() for g in normal])),
            "spread of images": float(np.mean([score[g].std() for g in normal])),
            "anomalous less normal": float(np.mean(shift)),
        }
    for name, estimates in noise.items():
        if len(estimates) < 2:
            continue
        own = estimates - estimates.mean(axis=1, keepdims=True)  # all images share their probes
        spread = own.std(axis=0, ddof=1).mean()
        rows[f"{name}: spread of a probe"] = {"spread of images": float(spread)}
    return rows


def print_rows(first: str, runs: list[dict[str, dict[str, float]]], form: str) -> None:
    """A Markdown table of mean and standard deviation over runs."""
    columns = list(next(iter(runs[0].values())))
    print(f"| {' | '.join([first, *columns])} |\n| --- |{' ---: |' * len(columns)}")
    for name in runs[0]:
        cells = [
            form.format(np.mean(v), np.std(v)) if v else "-"
            for v in ([run[name][c] for run in runs if c in run[name]] for c in columns)
        ]
        print(f"| {' | '.join([name, *cells])} |", flush=True)


if __name__ == "__main__":
    parser = cli.Parser(__doc__)
    parser.add_argument("--workdir", nargs="+", required=True, help="trained workdirs")
    parser.add_argument("--steps", nargs="+", type=int, default=[3, 10], metavar="S")
    parser.add_argument("--probes", type=int, default=4, metavar="P")
    parser.add_argument(
        "--limit", type=int, default=1000, help="test images of a category and label"
    )
    parser.add_argument(
        "--evaluation", metavar="NAME", help="a folder of each workdir, such as eval"
    )
    sys.exit(cli.run(main, parser, None))
