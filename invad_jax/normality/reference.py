"""What normal images teach: learnt in one pass over them, kept in a file, read back.

Which of it a config needs is its paradigm's `lessons` (`paradigms/`). Read next: `mixture.py` and
`memory_bank.py`, the two kinds; `inference/calibrate.py`, which learns.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from invad_jax.io import files
from invad_jax.io.arrays import read_arrays, write_arrays
from invad_jax.normality import memory_bank, mixture
from invad_jax.normality.image_bank import BankCollector, FittedBank
from invad_jax.normality.memory_bank import Collector, FittedMemory
from invad_jax.normality.mixture import Component, Estimator, FittedPrior


class Lessons(NamedTuple):
    """What has to be learnt of normal images; nothing by default."""

    gaussians: Estimator | None = None
    """How the Gaussian of a position is estimated, if there is to be one."""
    memory_bank: bool = False
    """Whether vectors are kept."""
    bank: bool = False
    """Whether the states of every image are kept, to retrieve from."""
    components: str = "category"
    """`scoring.components`: what makes images one kind of product."""
    classes: bool = False
    """Whether the class of an image is told by Gaussians of x0 of each category."""

    def __bool__(self) -> bool:
        return bool(self.gaussians) or self.memory_bank or self.bank or self.classes


class Learnt(NamedTuple):
    """`scoring.Reference` on the host."""

    prior: FittedPrior | None = None
    memory: FittedMemory | None = None
    bank: FittedBank | None = None
    classes: FittedPrior | None = None

    @property
    def component_names(self) -> tuple[str, ...]:
        """The kinds of product that `Scores.component` counts."""
        named = self.prior or self.memory
        return tuple(map(str, named.name)) if named else ("",)


def check_enough(lessons: Lessons, categories: Sequence[str]) -> None:
    """Raises UserError where there are too few images; better said before training.

    Args:
      lessons: what is to be learnt.
      categories: of each normal image.
    """
    if lessons.memory_bank:
        memory_bank.check_count(len(categories))
    if lessons.classes or (lessons.gaussians and lessons.components == "category"):
        count = Counter(categories)
        mixture.check_count(*min(count.items(), key=lambda item: item[1]))


def learn(lessons: Lessons, components: Iterable[Component]) -> Learnt:
    """Learns from normal images, in one pass over them.

    Raises:
      UserError: too few of them.
      ValueError: there is nothing to learn.
    """
    if not lessons:
        raise ValueError("nothing to learn")
    collector = Collector() if lessons.memory_bank else None
    bank = BankCollector() if lessons.bank else None
    if collector:
        components = (Component(c.name, collector.watch(*c)) for c in components)
    if bank:
        components = (Component(c.name, bank.watch(*c)) for c in components)
    fitted = None
    if lessons.gaussians:
        fitted = mixture.fit(components, lessons.gaussians)
    else:
        for component in components:
            deque(component.states, maxlen=0)  # lets them pass by the collectors
    return Learnt(fitted, collector.fit() if collector else None, bank.fit() if bank else None)


def write(folder: Path, learnt: Learnt) -> None:
    """Writes `reference.npz` atomically."""
    arrays: dict[str, Any] = {}
    if learnt.prior:
        arrays |= {f"prior.{k}": v for k, v in dataclasses.asdict(learnt.prior).items()}
    if learnt.memory:
        arrays |= {f"memory.{k}": v for k, v in learnt.memory._asdict().items()}
    if learnt.classes:
        arrays |= {f"classes.{k}": v for k, v in dataclasses.asdict(learnt.classes).items()}
    if learnt.bank:
        arrays |= {f"bank.{k}": v for k, v in learnt.bank._asdict().items()}
    write_arrays(folder / "reference.npz", arrays)


def read(folder: Path, lessons: Lessons) -> Learnt:
    """Reads what `write` wrote.

    Raises:
      UserError: missing, damaged, or not what is compared with.
    """
    with read_arrays(folder / "reference.npz", "delete its folder and run eval") as values:
        return Learnt(
            FittedPrior(**files.below("prior", values)) if lessons.gaussians else None,
            FittedMemory(**files.below("memory", values)) if lessons.memory_bank else None,
            FittedBank(**files.below("bank", values)) if lessons.bank else None,
            FittedPrior(**files.below("classes", values)) if lessons.classes else None,
        )
