"""What a run leaves behind, and whether a config may use it.

<workdir>/config.json      the resolved config
          checkpoints/     see `checkpoint.py`
          components.npz   of the encoder's features, with encoder.channels
          coordinates.npz  in which normal latents are N(0, I), with train.latent_stats=whiten
          region.png       what of every image is looked at, with data.region
          normals/         what normal images taught, a folder for each way of scoring;
                           precision.json: that of the first calibration
          logs/            TensorBoard
          vae.safetensors  of a first stage: what an encoder reads; with vae.json, examples.png
          eval/            what `eval` writes by default
          encoder/         the encoder's weights, or what is to be brought; see `encoders/kept.py`
          kept/            of a converted model: what only its own code base needs
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from invad_jax.config import Config, DataConfig, option, option_names
from invad_jax.config import io as config_io
from invad_jax.config.effect import is_read
from invad_jax.errors import UserError, what_there_is
from invad_jax.io import files
from invad_jax.io.paths import is_remote, to_path
from invad_jax.runtime import locks, seals
from invad_jax.runtime.log import log
from invad_jax.version import __version__

if TYPE_CHECKING:
    from invad_jax.paradigms.paradigm import Paradigm  # which imports JAX

Learnt = TypeVar("Learnt")

NORMALS_FORMAT = 8
"""Raised when the files of that folder change: what an older version kept is then made anew."""

VERSION = "invad_jax"
"""Beside the sections of `config.json`: what wrote it."""


class Workdir:
    """Paths of one run."""

    def __init__(self, path: str | Path):
        self.path = to_path(path)
        self.config = self.path / "config.json"
        self.checkpoints = self.path / "checkpoints"
        self.components = self.path / "components.npz"
        self.coordinates = self.path / "coordinates.npz"
        self.precision = self.path / "normals" / "precision.json"
        self.region = self.path / "region.png"
        self.logs = self.path / "logs"
        self.kept = self.path / "kept"
        self.encoder = self.path / "encoder"
        self._held = ExitStack()

    def normals(
        self, config: Config, paradigm: Paradigm, step: int, made_of: Mapping[str, Any]
    ) -> Path:
        """The folder of what normal images taught under a way of comparing."""
        text = json.dumps(scoring_key(config, paradigm, step, made_of), sort_keys=True)
        return self.path / "normals" / hashlib.sha256(text.encode()).hexdigest()[:12]

    def has_step(self, step: int) -> bool:
        """Whether a checkpoint is there, and whole."""
        folder = self.checkpoints / str(step)
        return (folder / seals.MARKER).is_file() if is_remote(folder) else folder.is_dir()

    def read_config(self) -> Config:
        """The config that the run was trained with."""
        if not self.config.is_file():
            raise UserError(f"{self.path}: not a workdir (no config.json); train first")
        values = files.read_json(self.config)
        if not isinstance(values, dict):
            raise UserError(f"{self.config}: holds no options")
        version = str(values.pop(VERSION, __version__))[:20]
        try:
            return config_io.from_dict(values, str(self.config))
        except UserError as error:
            if _numbers(version) <= _numbers(__version__):
                raise
            raise UserError(
                f"{self.path}: was made by invad_jax {version}, and this is {__version__}; take "
                f"the newer one ({error})"
            ) from None

    def learnt_before(
        self, path: Path, read: Callable[[Path], tuple[Learnt, Any]], key: dict[str, Any]
    ) -> Learnt | None:
        """What an earlier start of a training learnt of normal images, if it was the same ones.

        Args:
          path: of its file.
          read: gives what is in it, and the key that it was written with.
          key: all that it depends on.

        Raises:
          UserError: it is of other images, and a checkpoint that belongs to it is there.
        """
        if not path.is_file():
            return None
        try:
            learnt, its_key = read(path)
        except UserError:
            log.warning("%s: damaged; made anew of the same images", path)
            return None
        if its_key == key:
            return learnt
        if self.checkpoints.is_dir() and any(self.checkpoints.iterdir()):
            other = ", ".join(name for name in key if key[name] != its_key.get(name))
            raise UserError(
                f"{self.path}: its checkpoint was made with another {other}; restore it or give "
                "another --workdir"
            )
        return None

    def claim(self, config: Config, write: bool) -> None:
        """Makes this the workdir of `config`; training calls it first.

        Whoever writes holds the folder until it is closed, or the process ends.

        Args:
          config: the resolved config.
          write: whether this process writes the file.

        Raises:
          UserError: it belongs to another config already, or another process holds it.
        """
        if self.config.is_file():
            self.check(config, training=True)
        if write:
            self.close()  # claimed a second time
            self._held.enter_context(locks.alone(self.path, "another training is at work there"))
            if config.data.region and not self.region.is_file():
                with files.replaced(self.region) as temporary:
                    temporary.write_bytes(files.read_bytes(config.data.region))
            files.write_json(self.config, {VERSION: __version__, **config_io.to_dict(config)})

    def close(self) -> None:
        """Lets go of the folder, where it is held."""
        self._held.close()

    def keep_rate(self, rate: float) -> None:
        """Asks for this false-alarm rate from now on, where no other is given."""
        calibration = dataclasses.replace(self.read_config().calibration, false_positive_rate=rate)
        values = files.read_json(self.config)
        files.write_json(self.config, values | {"calibration": dataclasses.asdict(calibration)})

    def check(self, config: Config, training: bool = False) -> None:
        """Raises UserError unless `config` agrees in everything that decided the parameters, and,
        to go on `training`, in all that decides the further steps."""
        differences = config_io.frozen_differences(config, self.read_config(), training)
        if differences:
            raise UserError(
                f"{self.path}: was trained with another config: {'; '.join(differences)}; "
                "give another --workdir"
            )

    def adopt(self, config: Config) -> Config:
        """The same with what the training found in its images, where it is not given, and with the
        copy of its region.

        Raises:
          UserError: another region is given.
        """
        if not self.config.is_file():
            return config
        data = config.data
        if not data.value_range:
            data = dataclasses.replace(data, value_range=self.read_config().data.value_range)
        if self.region.is_file():
            data = dataclasses.replace(data, region=self._own_region(data.region))
        return dataclasses.replace(config, data=data)

    def _own_region(self, given: str) -> str:
        """The path of the copy; that of the training may have gone, or be another by now."""
        if given == self.read_config().data.region:
            return str(self.region)
        other = to_path(given).is_file() and files.sha256(given) != files.sha256(self.region)
        if other or not given:
            raise UserError(
                f"data.region={given}: {self.path} was trained with another one, {self.region}"
            )
        return str(self.region)

    def resolve(self, config_path: str | None, assignments: Sequence[str]) -> Config:
        """The config to evaluate with: a file's or the workdir's own, and the changes to it."""
        base = config_io.load(config_path) if config_path else self.read_config()
        config = self.adopt(config_io.override(base, list(assignments)))
        self.check(config)
        trained = self.read_config().data.categories
        others = sorted(set(config.data.categories) - set(trained))
        if others and "all" not in trained:
            raise UserError(
                f"data.categories={','.join(others)}: {self.path} was not trained on it"
                f"{what_there_is(others[0], trained)}"
            )
        label = config.inversion.label
        of_its_own = not config.denoiser.context and "all" not in trained
        if of_its_own and label.isdigit() and int(label) >= len(trained):
            raise UserError(f"inversion.label={label}: this network knows 0..{len(trained) - 1}")
        return config

    def trained_on(self, data: DataConfig) -> DataConfig:
        """The data set with all categories of the training."""
        return dataclasses.replace(data, categories=self.read_config().data.categories)


class Source(NamedTuple):
    """Where a trained detector is, with the options that it is asked for."""

    path: Path
    """A workdir, or a file that `export` wrote."""
    config: Config | None
    """Of a workdir; a file has its own."""
    overrides: Sequence[str]
    """As `--set` takes them; in `config` already."""


def source_of(path: Path, config_path: str | None, overrides: Sequence[str]) -> Source:
    """Refuses options of a workdir that are wrong, which needs no JAX."""
    config = None if path.is_file() else Workdir(path).resolve(config_path, overrides)
    return Source(path, config, overrides)


def _numbers(version: str) -> list[int]:
    """That versions are compared by.

    >>> _numbers("0.10.1rc2") > _numbers("0.9")
    True
    """
    return [int(number) for number in re.findall(r"\d+", version)]


def learnt_as(read: Callable[[], tuple[Learnt, Any]], key: dict[str, Any]) -> Learnt:
    """What was learnt, if it is of this key.

    Raises:
      UserError: it is of another, or cannot be read.
    """
    learnt, its_key = read()
    if its_key != key:
        raise UserError("what was learnt of normal images is of an earlier start")
    return learnt


def scoring_key(
    config: Config, paradigm: Paradigm, step: int, made_of: Mapping[str, Any]
) -> dict[str, Any]:
    """All that the scores of the normal images depend on, besides the images.

    Args:
      config: to evaluate with.
      paradigm: of the config.
      step: of the checkpoint.
      made_of: of the training: `dataset`, `encoder`, `config_hash`.
    """
    compared = [name for name in option_names() if name.startswith(("inversion.", "scoring."))]
    options = [name for name in compared if name != "scoring.terms" and is_read(config, name)]
    return {
        "format": NORMALS_FORMAT,
        "step": step,
        "made_of": dict(made_of),
        "dtype": config.denoiser.dtype,
        "options": {name: option(config, name) for name in options},
    }
