"""The encoder's weights in a workdir, so that a trained model needs nothing else.

<workdir>/encoder/NAME.safetensors  a copy, where the licence lets one be made: of published weights
                                    that are fetched, and of a VAE that was trained here
                  source.json       where they came from, and the SHA-256 of that file
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from invad_jax.config import EncoderConfig
from invad_jax.encoders.sources import sha256_of
from invad_jax.encoders.weights import has_file, source_file
from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.io.paths import to_path
from invad_jax.io.tensors import read_tensors, write_tensors

SOURCE = "source.json"


def keep(config: EncoderConfig, folder: Path) -> None:
    """Writes what an encoder of these options needs later; training calls it.

    Args:
      config: the `encoder` options.
      folder: of the workdir; what it holds of the same weights stays.
    """
    if not has_file(config.name, config.weights):
        return
    path, copy = source_file(config.name, config.weights), _copy(config, folder)
    source = {"weights": config.weights, "file": path.name, "sha256": sha256_of(path)}
    noted = files.read_json(folder / SOURCE) if (folder / SOURCE).is_file() else {}
    if noted == source or path.absolute() == copy.absolute():
        return
    if _may_be_copied(config, path):
        write_tensors(copy, read_tensors(path))
    elif noted.get("sha256") != source["sha256"]:
        copy.unlink(missing_ok=True)
    files.write_json(folder / SOURCE, source)  # last: with it the folder is whole


def options(config: EncoderConfig, folder: Path) -> EncoderConfig:
    """The options to build an encoder with: its weights are the folder's, if other ones are not
    asked for.

    Raises:
      UserError: there is no copy, and no file where the weights were; says which to bring.
    """
    if not has_file(config.name, config.weights) or not (folder / SOURCE).is_file():
        return config
    source = files.read_json(folder / SOURCE)
    if config.weights == source["weights"] and _copy(config, folder).is_file():
        return dataclasses.replace(config, weights=str(folder))
    if config.weights != "auto" and not to_path(config.weights).exists():
        raise UserError(
            f"encoder.weights={config.weights}: no such file; the training had {source['file']} of "
            f"SHA-256 {source['sha256']}, which may not be copied: bring it, and set "
            "encoder.weights to its path"
        )
    return config


def _copy(config: EncoderConfig, folder: Path) -> Path:
    return folder / f"{config.name}.safetensors"


def _may_be_copied(config: EncoderConfig, path: Path) -> bool:
    """Whether the licence is known to allow it: all that are fetched do."""
    if config.weights == "auto":
        return True
    summary = path.with_suffix(".json")  # `train_vae` and `convert` write it
    trained = config.name == "vae" and summary.is_file()
    return trained and "converted_from" not in files.read_json(summary)
