"""What images are compared with under a config: learnt from normals, kept, put on the devices.

| `inversion.paradigm` | `scoring.prior` | what is scored | what it is compared with |
| --- | --- | --- | --- |
| inversion | fitted | `scoring.states` | a mixture of Gaussians (`prior.py`) |
| inversion | standard_normal | x_T | N(0, I), the paper's |
| reconstruction | - | the error | nothing |
| padim | - | x0 | a mixture of Gaussians, as published (`baselines.py`) |
| nearest_neighbour | - | x0 | vectors of normal images (`baselines.py`) |

Read next: `normals.py`, which learns it.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np

from invad_jax import baselines, files, prior
from invad_jax.baselines import Memory
from invad_jax.config import Config
from invad_jax.detector import Reference
from invad_jax.errors import UserError
from invad_jax.prior import Component, FittedPrior
from invad_jax.scoring import Prior

Learnt = FittedPrior | Memory
"""On the host."""


def kind(config: Config) -> Literal["none", "fitted", "padim", "memory"]:
    """What has to be learnt."""
    paradigm = config.inversion.paradigm
    if paradigm == "padim":
        return "padim"
    if paradigm == "nearest_neighbour":
        return "memory"
    if paradigm == "inversion" and config.scoring.prior == "fitted":
        return "fitted"
    return "none"


def states(config: Config) -> Literal["x_0", "x_T", "ends", "all"]:
    """Which latents are scored together; see `diffusion.inversion.scored_states`."""
    if config.inversion.paradigm in ("padim", "nearest_neighbour"):
        return "x_0"
    return config.scoring.states if kind(config) == "fitted" else "x_T"


def terms(config: Config) -> tuple[str, ...]:
    """The terms of the image score: the config's, or those that suit what is compared with."""
    if config.scoring.terms:
        return config.scoring.terms
    return {
        "fitted": ("map_top",),
        "none": ("nll", "map_range"),
        "padim": ("map_max",),
        "memory": ("map_max",),
    }[kind(config)]


def learn(config: Config, components: Iterable[Component]) -> Learnt:
    """Learns from normal images.

    Raises:
      UserError: too few of them.
      ValueError: the config compares with nothing learnt.
    """
    what = kind(config)
    if what == "fitted":
        return prior.fit(components)
    if what == "padim":
        return baselines.fit_padim(components)
    if what == "memory":
        return baselines.fit_memory(components)
    raise ValueError("nothing to learn")


def write(folder: Path, learnt: Learnt) -> None:
    """Writes `reference.npz` atomically."""
    arrays = learnt._asdict() if isinstance(learnt, Memory) else dataclasses.asdict(learnt)
    with files.replaced(folder / "reference.npz") as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def read(folder: Path, config: Config) -> Learnt:
    """Reads what `write` wrote.

    Raises:
      UserError: missing or damaged.
    """
    path = folder / "reference.npz"
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in arrays.files}
        return Memory(**values) if kind(config) == "memory" else FittedPrior(**values)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read; delete its folder and run eval") from error


def to_device(learnt: Learnt) -> Reference:
    """As the arrays that the detector takes."""
    if isinstance(learnt, Memory):
        return Memory(jnp.asarray(learnt.vector))
    return Prior(
        mean=jnp.asarray(learnt.mean),
        projection=jnp.asarray(learnt.projection),
        inv_std=jnp.asarray(learnt.inv_std) if learnt.inv_std.size else None,
        log_det=jnp.asarray(learnt.log_det),
        log_weight=jnp.asarray(learnt.log_weight),
    )


def component_names(learnt: Learnt) -> tuple[str, ...]:
    """The kinds of product that `Scores.component` counts."""
    return tuple(map(str, learnt.name)) if isinstance(learnt, FittedPrior) else ("",)
