"""A config from a file, from the command line and from JSON; what differs between two.

Read next: `ranges.py`, the last check of each.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from invad_jax.config import Config, option_names
from invad_jax.config.effect import refuse_unread
from invad_jax.config.ranges import validate
from invad_jax.errors import UserError, did_you_mean


def load(path: str | Path) -> Config:
    """Runs a config file and returns what its `get_config()` returns.

    Raises:
      UserError: the file is missing, fails, returns something else than a `Config`, or sets what it
        does not read.
    """
    path = _packaged(Path(path))
    if not path.is_file():
        raise UserError(f"--config {path}: no such file{did_you_mean(path.name, _siblings(path))}")
    spec = importlib.util.spec_from_file_location(f"_invad_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config {path}: not a Python file (expected configs/NAME.py)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # a config is the user's code: anything can come out of it
        raise UserError(f"--config {path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(
            f"--config {path}: get_config() returned {type(config).__name__}, not Config"
        )
    try:
        validate(config)
        refuse_unread(config)
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from None
    return config


def _packaged(path: Path) -> Path:
    """A path, or of a bare name such as `folder` the experiment that came with the package."""
    if path.is_file() or path.suffix or len(path.parts) != 1:
        return path
    package = Path(__file__).resolve().parents[1]
    beside = (package / "configs", package.parent / "configs")  # a wheel, a clone
    found = (folder / f"{path}.py" for folder in beside)
    return next((file for file in found if file.is_file()), path)


def override(config: Config, assignments: Sequence[str]) -> Config:
    """Applies `section.option=value` strings in order; values are typed by the annotations.

    Raises:
      UserError: unknown section or option (with the nearest names), a value of another type, or an
        option that the config does not read then.

    >>> override(Config(), ["inversion.num_steps=5"]).inversion.num_steps
    5
    """
    config = assign(config, assignments)
    refuse_unread(config, [text.partition("=")[0].strip() for text in assignments])
    return config


def assign(config: Config, assignments: Sequence[str]) -> Config:
    """The same, also where an option is not read."""
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        section_name, dot, option = name.strip().partition(".")
        if not equals or not dot:
            raise UserError(f"--set {assignment}: expected section.option=value")
        section: Any = getattr(config, section_name, None)
        known = section_name in _types(Config)
        if not known or option not in _types(type(section)):
            raise UserError(f"--set {name}: {_unknown(name)}")
        value = _parse(text.strip(), _types(type(section))[option], name)
        changed: dict[str, Any] = {section_name: dataclasses.replace(section, **{option: value})}
        config = dataclasses.replace(config, **changed)
    validate(config)
    return config


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """As nested plain values (tuples become lists), ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, dict[str, Any]], source: str = "config") -> Config:
    """The inverse of `to_dict`; options that `values` lacks take their defaults.

    Raises:
      UserError: an unknown section or option, or a value of another type; `source` names the file.
    """
    sections = {}
    for section_name, options in values.items():
        section_type = _types(Config).get(section_name)
        if section_type is None or not isinstance(options, dict):
            raise UserError(f"{source}: unknown section {section_name!r}")
        unknown = sorted(set(options) - set(_types(section_type)))
        if unknown:
            name = f"{section_name}.{unknown[0]}"
            raise UserError(f"{source}: {name}: {_unknown(name)}")
        typed = {
            option: _check(
                value, _types(section_type)[option], f"{source}: {section_name}.{option}"
            )
            for option, value in options.items()
        }
        sections[section_name] = section_type(**typed)
    config = Config(**sections)
    validate(config)
    return config


def config_hash(config: Config) -> str:
    """First 12 hex digits of the SHA-256 of the canonical JSON."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


SAME_IN_TRAINING = {"dtype": (("auto", "float32"), ("float32", "auto"))}
"""Values of an option that training does not tell apart."""


def frozen_differences(ours: Config, theirs: Config, training: bool = False) -> list[str]:
    """Options that differ and that a trained workdir does not allow to differ, as readable text.

    Everything that decided the trained parameters is frozen; evaluation settings, paths and
    settings of speed and logging are free. To go on with a training bit by bit (`training`), the
    type of the activations is frozen too.
    """
    differences = []
    for section_name in _types(Config):
        our_section, their_section = getattr(ours, section_name), getattr(theirs, section_name)
        for option in dataclasses.fields(our_section):
            a, b = getattr(our_section, option.name), getattr(their_section, option.name)
            if training and (a, b) in SAME_IN_TRAINING.get(option.name, ()):
                continue
            continued = training and option.metadata.get("training")
            if a != b and (continued or not option.metadata.get("free")):
                name = f"{section_name}.{option.name}"
                differences.append(f"{name} is {_short(a)}, was {_short(b)}")
    return differences


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _types(section: type) -> dict[str, Any]:
    return typing.get_type_hints(section)


def _siblings(path: Path) -> list[str]:
    return [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []


GONE = {
    **dict.fromkeys(("train.latent_noise", "train.min_snr_gamma"), "it did not help"),
    **dict.fromkeys(("train.initial_learning_rate", "train.final_learning_rate"), "it is 1e-6"),
    "scoring.neighbours": "inversion.paradigm=nearest_neighbour looks for them",
    "scoring.states": "x_T is compared",
    "inversion.final_alpha_bar": "it is 0",
    "diffusion.zero_terminal_snr": "diffusion.betas can say it",
    "denoiser.mlp_ratio": "it is 4",
    "train.weight_decay": "it is 0",
    "train.grad_clip_norm": "it is 1",
    "train.keep_checkpoints": "it is 2",
    "eval.num_examples": "it is 6",
    "whitening.temperature": "it is 0.25",
    "whitening.images": "it is 100",
    "diffusion.beta_start": "diffusion.betas has both",
    "diffusion.beta_end": "diffusion.betas has both",
    "diffusion.beta_range": "diffusion.betas has both",
    "train.log_every": "it is 50, and every checkpoint",
    "vae_loss.reconstruction": "it is the absolute difference",
    "mesh.data": "it takes the devices that mesh.fsdp and mesh.tensor leave",
    **{
        f"denoiser.{name}": "denoiser.variants says it"
        for name in (
            "middle_attention",
            "resample",
            "time_frequency_shift",
            "time_scale_shift",
            "center_input",
        )
    },
}
"""Options of earlier versions, and what there is instead."""


def _unknown(name: str) -> str:
    """What is wrong with a name; an option of that name in another section comes first."""
    if name in GONE:
        return f"no longer an option ({GONE[name]}); see CHANGELOG.md"
    by_tail = [o for o in option_names() if o.partition(".")[2] == name.split(".")[-1]]
    if by_tail:
        return f"unknown option; did you mean {' or '.join(by_tail[:3])}?"
    return f"unknown option{did_you_mean(name, option_names())}"


def split_list(text: str) -> list[str]:
    """The items of a list on the command line, between commas; quotes keep an item together.

    >>> split_list('nut, "a, b", bracket (left)'), split_list("[1, 2]")
    (['nut', 'a, b', 'bracket (left)'], ['1', '2'])
    """
    text = text.strip()
    if text[:1] + text[-1:] in ("()", "[]"):
        depth = list(itertools.accumulate((c in "([") - (c in ")]") for c in text))
        if 0 not in depth[:-1]:  # one pair around all
            text = text[1:-1]
    quote = '"' if '"' in text else "'"
    items = next(csv.reader([text], quotechar=quote, skipinitialspace=True), [])
    return [item.strip() for item in items if item.strip()]


def _parse(text: str, annotation: Any, name: str) -> Any:
    """One command-line value as the annotated type; tuples are comma-separated."""
    if typing.get_origin(annotation) is tuple:
        item_type = typing.get_args(annotation)[0]
        return tuple(_parse(item, item_type, name) for item in split_list(text))
    if annotation is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise UserError(f"--set {name}={text}: expected true or false")
        return text.lower() in ("true", "1")
    if annotation in (int, float):
        try:
            return annotation(text.replace("_", ""))
        except ValueError:
            kind = "a whole number" if annotation is int else "a number"
            raise UserError(f"--set {name}={text}: expected {kind}") from None
    return _check(text, annotation, f"--set {name}={text}")


def _check(value: Any, annotation: Any, where: str) -> Any:
    """A value from JSON or Python as the annotated type."""
    origin = typing.get_origin(annotation)
    if origin is Literal:
        choices = typing.get_args(annotation)
        if value not in choices:
            raise UserError(f"{where}: expected one of {', '.join(map(str, choices))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_check(item, typing.get_args(annotation)[0], where) for item in value)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**1000 else math.inf if value > 0 else -math.inf
    if isinstance(annotation, type | types.GenericAlias) and type(value) is annotation:
        return value
    raise UserError(
        f"{where}: {_short(value)} is not of type {getattr(annotation, '__name__', annotation)}"
    )
