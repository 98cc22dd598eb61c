"""The grid of a sweep: which models it needs, and in which ways each is evaluated.

Read next: `sweep.py`, which walks the grid.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from invad_jax.config import Config, option_text
from invad_jax.config import io as config_io
from invad_jax.config.effect import is_read
from invad_jax.config.names import metadata
from invad_jax.errors import UserError

_OTHER_FILES = ("data.root", "data.categories", "encoder.weights", "train.teacher")
"""Free, as a workdir may move with its files, or be evaluated on some of its categories; but other
values in one sweep are other files, or another network to learn from."""


@dataclass(frozen=True)
class Axis:
    """One swept option."""

    name: str
    """`section.option`."""
    values: tuple[str, ...]
    """Distinct, as `--set` takes them."""

    def retrains(self, config: Config) -> bool:
        """Whether each value needs a model of its own."""
        if self.name == "scoring.components":  # the coordinates are of the kinds of product
            return config.train.latent_stats == "whiten"
        return not metadata(self.name).get("free") or self.name in _OTHER_FILES


@dataclass(frozen=True)
class Cell:
    """One point of the grid with one seed."""

    values: tuple[str | None, ...]
    """One for each axis; None where the option has no effect."""
    seed: int
    run: str
    """Name of the model, which cells share that differ in how it is evaluated."""
    training: tuple[str, ...]
    """Where the model is not the base config's, and its seed, as `--set` takes it."""
    config: Config
    """To evaluate with."""


def parse_axes(texts: Sequence[str], base: Config) -> tuple[Axis, ...]:
    """Reads `section.option=value,value,...`; the values of a list stand in brackets.

    Raises:
      UserError: an unknown option, one given twice, no value, or a value of another type.

    >>> parse_axes(["inversion.num_steps=1,3", "encoder.stages=[2,4],[4,10]"], Config())[1].values
    ('[2,4]', '[4,10]')
    """
    axes: list[Axis] = []
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        if not equals or "." not in name:
            raise UserError(f"--over {text}: expected section.option=value,value,...")
        if name in [axis.name for axis in axes]:
            raise UserError(f"--over {name}: given twice; list all its values in one")
        if name == "train.seed":
            raise UserError("--over train.seed: results are averaged over seeds; give --seeds 0,1")
        items = re.split(r",(?![^\[(]*[\])])", values)  # at commas outside of brackets
        typed = [_value(base, name, item.strip()) for item in items]
        axes.append(Axis(name, tuple(dict.fromkeys(typed))))
    if not axes:
        raise UserError("nothing to sweep; give --over section.option=value,value,...")
    return tuple(axes)


def parse_seeds(text: str | None, base: Config) -> tuple[int, ...]:
    """Reads `0,1,2`; None is the config's own seed.

    Raises:
      UserError: not whole numbers.
    """
    if text is None:
        return (base.train.seed,)
    try:
        return tuple(dict.fromkeys(int(item) for item in text.split(",")))
    except ValueError:
        raise UserError(f"--seeds {text}: expected whole numbers, such as 0,1,2") from None


def make_cells(base: Config, axes: Sequence[Axis], seeds: Sequence[int]) -> list[Cell]:
    """Every distinct point of the grid with every seed; cells of one point follow each other.

    Raises:
      UserError: a combination that no config may have, or an option that no point reads.
    """
    cells: dict[tuple[Any, ...], Cell] = {}
    for values, seed in itertools.product(itertools.product(*(a.values for a in axes)), seeds):
        cell = _make_cell(base, axes, values, seed)
        cells.setdefault((cell.values, seed), cell)
    for i, axis in enumerate(axes):
        if all(cell.values[i] is None for cell in cells.values()):
            where = metadata(axis.name)["where"]
            raise UserError(f"--over {axis.name}: would have no effect; it is read where {where}")
    return list(cells.values())


def _make_cell(base: Config, axes: Sequence[Axis], values: Sequence[str], seed: int) -> Cell:
    assigned = {axis.name: value for axis, value in zip(axes, values, strict=True)}
    everything = [f"{name}={value}" for name, value in assigned.items()]
    config = config_io.assign(base, everything)
    used = {name: v for name, v in assigned.items() if is_read(config, name)}
    decide = [axis.name for axis in axes if axis.name in used and axis.retrains(config)]
    trained = [(name, used[name]) for name in decide if used[name] != option_text(base, name)]
    training = tuple(f"{name}={value}" for name, value in (*trained, ("train.seed", str(seed))))
    evaluating = [f"{name}={value}" for name, value in used.items()]
    return Cell(
        values=tuple(used.get(axis.name) for axis in axes),
        seed=seed,
        run=_run_name([*trained, ("seed", str(seed))]),
        training=training,
        config=config_io.assign(base, [*training, *evaluating]),
    )


def _run_name(assigned: Iterable[tuple[str, str]]) -> str:
    """A readable folder name, distinct for distinct assignments.

    >>> _run_name([("encoder.stages", "[2,4]"), ("seed", "0")])
    'encoder.stages=2+4,seed=0'
    """
    plain = [(name, value.strip("[]").replace(",", "+")) for name, value in assigned]
    text = ",".join(f"{name}={value}" for name, value in plain)
    name = re.sub(r"[^\w.,=+-]", "_", text)
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _value(base: Config, name: str, text: str) -> str:
    """The text of one value in one way of writing it, so that equal values are equal."""
    if not text:
        raise UserError(f"--over {name}: needs values, such as {name}=A,B")
    try:
        config = config_io.assign(base, [f"{name}={text}"])
    except UserError as error:
        raise UserError(re.sub("^--set", "--over", str(error))) from None
    return option_text(config, name)
