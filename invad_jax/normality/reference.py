"""What images are compared with under a config: learnt from normals, kept.

| `inversion.paradigm` | `scoring.prior` | what is scored, and what it is compared with |
| --- | --- | --- |
| inversion | fitted | `scoring.states`: Gaussians of each position (`mixture.py`); with |
| | | `scoring.neighbours` also x0: vectors of normal images (`memory_bank.py`) |
| inversion | standard_normal | x_T: N(0, I), the paper's |
| reconstruction | - | the error: nothing |
| padim | - | x0: Gaussians of each position, as published (`mixture.py`) |
| nearest_neighbour | - | x0: vectors of normal images |

Read next: `inference/calibrate.py`, which learns it.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from invad_jax.config import Config
from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.normality import mixture
from invad_jax.normality.memory_bank import Collector, FittedMemory
from invad_jax.normality.mixture import Component, FittedPrior


class Learnt(NamedTuple):
    """`scoring.Reference` on the host."""

    prior: FittedPrior | None = None
    memory: FittedMemory | None = None


def parts(config: Config) -> frozenset[Literal["gaussians", "padim", "memory"]]:
    """What has to be learnt; empty: nothing."""
    paradigm = config.inversion.paradigm
    if paradigm == "padim":
        return frozenset({"padim"})
    if paradigm == "nearest_neighbour":
        return frozenset({"memory"})
    if paradigm == "reconstruction" or config.scoring.prior == "standard_normal":
        return frozenset()
    return frozenset({"gaussians", "memory"} if config.scoring.neighbours else {"gaussians"})


def states(config: Config) -> Literal["x_0", "x_T", "ends", "all"]:
    """Which latents are needed; see `diffusion.inversion.scored_states`."""
    what = parts(config)
    if not what:
        return "x_T"
    if config.inversion.paradigm != "inversion":
        return "x_0"
    if "memory" in what and config.scoring.states == "x_T":
        return "ends"  # for x0
    return config.scoring.states


def terms(config: Config) -> tuple[str, ...]:
    """The terms of the image score: the config's, or those that suit what is compared with."""
    if config.scoring.terms:
        return config.scoring.terms
    if config.inversion.paradigm in ("padim", "nearest_neighbour"):
        return ("map_max",)  # as published
    return ("map_top",) if parts(config) else ("nll", "map_range")


def learn(config: Config, components: Iterable[Component]) -> Learnt:
    """Learns from normal images, in one pass over them.

    Raises:
      UserError: too few of them.
      ValueError: the config compares with nothing learnt.
    """
    what = parts(config)
    if not what:
        raise ValueError("nothing to learn")
    collector = Collector() if "memory" in what else None
    if collector:
        components = (Component(c.name, collector.watch(*c)) for c in components)
    if "gaussians" in what:
        first = -1 if config.scoring.states == "x_T" else None
        fitted = mixture.fit(_of_states(component, slice(first, None)) for component in components)
    elif "padim" in what:
        fitted = mixture.fit(components, mixture.padim)
    else:
        fitted = None
        for component in components:
            deque(component.states, maxlen=0)  # lets them pass by the collector
    return Learnt(fitted, collector.fit() if collector else None)


def _of_states(component: Component, rows: slice) -> Component:
    return Component(component.name, (batch[:, rows] for batch in component.states))


def write(folder: Path, learnt: Learnt) -> None:
    """Writes `reference.npz` atomically."""
    arrays: dict[str, Any] = {}
    if learnt.prior:
        arrays |= {f"prior.{k}": v for k, v in dataclasses.asdict(learnt.prior).items()}
    if learnt.memory:
        arrays |= {f"memory.{k}": v for k, v in learnt.memory._asdict().items()}
    with files.replaced(folder / "reference.npz") as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def read(folder: Path, config: Config) -> Learnt:
    """Reads what `write` wrote.

    Raises:
      UserError: missing, damaged, or not what the config compares with.
    """
    path = folder / "reference.npz"
    what = parts(config)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in arrays.files}
        return Learnt(
            FittedPrior(**_below("prior", values)) if what & {"gaussians", "padim"} else None,
            FittedMemory(**_below("memory", values)) if "memory" in what else None,
        )
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read; delete its folder and run eval") from error


def _below(head: str, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{head}.")}


def component_names(learnt: Learnt) -> tuple[str, ...]:
    """The kinds of product that `Scores.component` counts."""
    named = learnt.prior or learnt.memory
    return tuple(map(str, named.name)) if named else ("",)
