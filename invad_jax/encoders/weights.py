"""How the tensors of a weight file become an encoder's variables.

Reading them runs no code of theirs (`io/tensors.py`). Read next: `sources.py`, where the files come
from.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from invad_jax.encoders.backbone import Backbone, ImageDecoder, Variables
from invad_jax.encoders.sources import WITHOUT_WEIGHTS, fetch
from invad_jax.errors import UserError
from invad_jax.io.paths import to_path
from invad_jax.io.tensor_reader import TensorReader
from invad_jax.io.tensors import read_tensors


def load_variables(backbone: Backbone | ImageDecoder, name: str, weights: str) -> Variables:
    """The variables of an encoder, or of the way back.

    Args:
      backbone: the network.
      name: of the encoder, in `SOURCES`.
      weights: `encoder.weights`: "auto", "random" or a path (see `weights_file`).

    Raises:
      UserError: weights that cannot be obtained, read or used.
    """
    if not has_file(name, weights):
        return random_variables(backbone.abstract)
    path = source_file(name, weights)
    tensors = read_tensors(path)
    try:
        return backbone.convert(tensors)
    except UserError as error:
        raise UserError(f"{path}: not weights of {name}: {error}") from error


def has_file(name: str, weights: str) -> bool:
    """Whether the variables of an encoder come from a file."""
    return weights != "random" and name not in WITHOUT_WEIGHTS


def source_file(name: str, weights: str) -> Path:
    """The file that `encoder.weights` stands for, where there `has_file`."""
    return fetch(name) if weights == "auto" else weights_file(name, weights)


def weights_file(name: str, weights: str) -> Path:
    """The file at a path that `encoder.weights` gives: itself, or `NAME.safetensors` in a folder.

    Args:
      name: of the encoder.
      weights: path of a file, or of a workdir such as `train_vae` makes.

    Raises:
      UserError: a folder without that file.
    """
    path = to_path(weights)
    if path.is_dir():
        path /= f"{name}.safetensors"
        if not path.is_file():
            raise UserError(
                f"encoder.weights={weights}: no {path.name} in it, which a training of that "
                "encoder writes when it ends"
            )
    return path


def random_variables(abstract: Variables) -> Variables:
    """Untrained variables, the same on every machine: kernels that keep the variance (He et al.
    2015), factors of 1, biases of 0.

    Args:
      abstract: `jax.ShapeDtypeStruct`s named as flax names parameters.
    """

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        kind = path[-1].key
        if kind in ("bias", "scale", "gamma"):
            return np.full(leaf.shape, kind != "bias", leaf.dtype)
        deviation = math.sqrt(2 / math.prod(leaf.shape[:-1])) if kind == "kernel" else 0.02
        # A generator per variable: a network cut shorter keeps the values of the longer one.
        rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
        return rng.normal(0, deviation, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract)


def conv(reader: TensorReader, name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """A torch convolution with a bias as flax variables.

    Args:
      reader: has `name.weight` and `name.bias`.
      name: of the convolution.
      shape: of the weight, (out, in, k, k).

    Returns:
      kernel (k, k, in, out) and bias (out,), float32.
    """
    return _as_flax(
        reader.filled(f"{name}.weight", shape), reader.filled(f"{name}.bias", shape[:1])
    )


def folded_conv(
    reader: TensorReader, name: str, norm: str, shape: tuple[int, ...], epsilon: float
) -> dict[str, np.ndarray]:
    """A torch convolution without a bias and the batch normalisation after it, as one convolution.

    norm(W x) = a W x + (bias - a mean) with a = weight / sqrt(variance + epsilon), in float64.

    Args:
      reader: has `name.weight` and `norm.weight`, `.bias`, `.running_mean`, `.running_var`.
      name: of the convolution.
      norm: of the normalisation.
      shape: of the weight, (out, in, k, k).
      epsilon: of the normalisation.

    Returns:
      kernel (k, k, in, out) and bias (out,), float32.
    """
    weight = reader.filled(f"{name}.weight", shape)
    scale, bias, mean, variance = (
        reader.filled(f"{norm}.{part}", shape[:1])
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    if (variance < 0).any():
        reader.reject("wrong", f"{norm}.running_var is negative")
        variance = np.zeros(shape[:1])
    scale = scale / np.sqrt(variance + epsilon)
    return _as_flax(weight * scale[:, None, None, None], bias - scale * mean)


def pointwise(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The variables of a 1 x 1 convolution as those of a dense layer, kernel (in, out)."""
    return variables | {"kernel": variables["kernel"][0, 0]}


def _as_flax(weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    kernel = np.ascontiguousarray(weight.transpose(2, 3, 1, 0), np.float32)
    return {"kernel": kernel, "bias": bias.astype(np.float32)}
