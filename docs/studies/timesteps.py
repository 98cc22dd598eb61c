"""Timesteps searched by the likelihood of held-out normals: docs/accuracy_standardised.md.

    python docs/studies/timesteps.py --workdir runs/u0 runs/u1 runs/u2 --steps 1 2 3

Every plan of S timesteps out of a grid is ranked by the NLL of x_T of held-out normal images under
Gaussians of each position that were fitted on the others. Test images are scored only afterwards,
by x0, x_T and `map_top`. An inversion that shrinks x_T makes any x_T likelier, so there are two
criteria: `nll`, bits a number, and `nll, unit size`, the same of x_T divided by its root mean
square deviation over the normal images that the prior was fitted on.

A table for each S: the plans in the order of `nll, unit size`, means over workdirs, and the rank
correlation of either criterion with the image AUROC. Nothing is written to the workdirs.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import invad_jax
from invad_jax.data import layouts
from invad_jax.data.dataset import Sample
from invad_jax.detector import standardise
from invad_jax.diffusion.inversion import invert
from invad_jax.diffusion.schedule import Plan, make_plan
from invad_jax.errors import UserError
from invad_jax.inference.arrays import reference_to_device
from invad_jax.inference.encode import encode_samples
from invad_jax.metrics import image_metrics
from invad_jax.normality import mixture
from invad_jax.normality.reference import Learnt
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.runtime import cli
from invad_jax.scoring import Reference, Scores, score_under

GRID = (0, 100, 333, 500, 666, 999)
"""Holds the published plan, 0, 500, 999, and the paper's, 333, 666, 999."""


class Row(NamedTuple):
    """What a plan gives."""

    nll: float
    """Bits a number of x_T, held-out normals."""
    nll_unit_size: float
    aurocs: tuple[float, ...]
    """Percent, of each category."""


def main(args: argparse.Namespace) -> None:
    """Prints a table for each number of steps."""
    if not all(1 <= steps <= len(GRID) for steps in args.steps):
        raise UserError(f"--steps: 1 to {len(GRID)}")
    studies = [Study(workdir) for workdir in args.workdir]
    for num_steps in args.steps:
        plans = list(itertools.combinations(GRID, num_steps))
        rows = {plan: [study.row(plan) for study in studies] for plan in plans}
        print_table(num_steps, studies[0].categories, rows)


class Study:
    """The latents of a workdir."""

    def __init__(self, workdir: str):
        model = invad_jax.load(workdir, ["scoring.prior=standard_normal"])  # fits its own
        dataset = layouts.load_dataset(model.config.data)
        fitted_on, held_out = layouts.hold_out(dataset.train, model.config.data.holdout_fraction)
        if not held_out or not dataset.test:
            raise UserError(f"{workdir}: needs held-out normal images and a test set")

        def latents(samples: Sequence[Sample]) -> np.ndarray:
            return np.asarray(encode_samples(samples, model.encoder, model.config, model.mesh))

        self.model = model
        self.categories = sorted({sample.category for sample in dataset.test})
        self.fitted_on, self.held_out = latents(fitted_on), latents(held_out)
        self.kind = np.array([sample.category for sample in fitted_on])
        self.test = latents(dataset.test)
        self.test_kind = np.array([sample.category for sample in dataset.test])
        self.label = np.array([sample.gt_label for sample in dataset.test])

        @jax.jit
        def states(latent: jax.Array, plan: Plan) -> jax.Array:
            x0 = standardise(latent, model.latent_stats)
            x_T = invert(lambda x, t: model.detector.denoise(model.network, x, t), x0, plan)
            return jnp.stack([x0, x_T], axis=1)

        self.states = states
        self.score = jax.jit(lambda fitted, states: score_under(fitted, states, 8))

    def row(self, timesteps: Sequence[int]) -> Row:
        """One plan."""
        plan = make_plan(alpha_bar_of(self.model.config), np.array(timesteps))
        fitted_on = self._batched(lambda latent: self.states(latent, plan), self.fitted_on)
        x_T = fitted_on[:, 1:]
        deviation = math.sqrt(
            np.mean([np.mean(x_T[its].var(axis=0)) for its in self._rows(self.kind)])
        )
        held_out = self._batched(lambda latent: self.states(latent, plan), self.held_out)[:, 1:]
        nats = self._scores(self._fit(x_T), held_out).nll.mean() / held_out[0].size
        test = self._batched(lambda latent: self.states(latent, plan), self.test)
        map_top = self._scores(self._fit(fitted_on), test).map_top
        aurocs = (
            image_metrics(map_top[its], self.label[its])["i_auroc"] or math.nan
            for its in self._rows(self.test_kind)
        )
        bits = nats / math.log(2)
        return Row(bits, bits - math.log2(deviation), tuple(100 * auroc for auroc in aurocs))

    def _rows(self, kind: np.ndarray) -> list[np.ndarray]:
        return [np.flatnonzero(kind == name) for name in self.categories]

    def _fit(self, states: np.ndarray) -> Reference:
        components = (
            mixture.Component(name, [states[its]])
            for name, its in zip(self.categories, self._rows(self.kind), strict=True)
        )
        return reference_to_device(Learnt(mixture.fit(components)))

    def _scores(self, fitted: Reference, states: np.ndarray) -> Scores:
        return self._batched(lambda batch: self.score(fitted, batch), states)

    def _batched(self, function, inputs):
        size = self.model.batch_size
        starts = range(0, len(inputs), size)
        parts = [
            jax.device_get(
                function(np.resize(inputs[start : start + size], (size, *inputs.shape[1:])))
            )
            for start in starts
        ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(inputs)], *parts)


def print_table(
    num_steps: int, categories: Sequence[str], rows: dict[tuple[int, ...], list[Row]]
) -> None:
    """Markdown; one line a plan."""
    nll, unit_size, auroc = (
        np.array([[of(row) for row in of_plan] for of_plan in rows.values()])  # (plans, workdirs)
        for of in (lambda r: r.nll, lambda r: r.nll_unit_size, lambda r: float(np.mean(r.aurocs)))
    )
    print(f"\nS = {num_steps}\n")
    head = ["timesteps", "nll", "nll, unit size", *categories, "mean"]
    print(f"| {' | '.join(head)} |\n| --- |{' ---: |' * (len(head) - 1)}")
    plans = list(rows)
    for i in np.argsort(unit_size.mean(axis=1)):
        of_sets = np.array([row.aurocs for row in rows[plans[i]]])  # (workdirs, categories)
        cells = [f"{nll[i].mean():.3f}", f"{unit_size[i].mean():.3f}"]
        cells += [f"{mean:.1f}" for mean in of_sets.mean(axis=0)]
        cells += [f"{auroc[i].mean():.1f} ± {auroc[i].std():.1f}"]
        print(f"| {' | '.join([', '.join(map(str, plans[i])), *cells])} |", flush=True)
    for name, criterion in (("nll", nll), ("nll, unit size", unit_size)):
        correlations = [
            scipy.stats.spearmanr(-criterion[:, k], auroc[:, k]).statistic
            for k in range(auroc.shape[1])
        ]
        print(
            f"\nrank correlation of {name} with the mean AUROC: "
            + ", ".join(f"{r:+.2f}" for r in correlations)
        )


if __name__ == "__main__":
    parser = cli.Parser(__doc__)
    parser.add_argument("--workdir", nargs="+", required=True, help="trained workdirs")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 3], metavar="S")
    sys.exit(cli.run(main, parser, None))
