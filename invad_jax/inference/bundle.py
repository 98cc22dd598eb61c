"""One file that holds a detector: for a machine without the package, the training or a network.

    model.json            what it is: sizes, outputs, versions, dates, metrics, licences, and the
                          SHA-256 of each part
    detector.stablehlo    the function, of `exporting.py`
    arrays.npz            its arrays: encoder, coordinates, network, reference, calibration
    normals.json          scores of the normal images that set the threshold; no path
    pictures.npz          images, and what the detector said of them when it was exported
    loader.py             a copy of `loader.py`, for people; it is never run from here

A zip file whose parts are stored as they are; nothing in it is pickled. Read next: `loader.py`.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from invad_jax.config import TERMS, Config
from invad_jax.config import io as config_io
from invad_jax.data.pipeline import image_batches
from invad_jax.errors import UserError
from invad_jax.inference.batches import fitting
from invad_jax.inference.exporting import MEANING, Constants, Exported
from invad_jax.inference.in_parts import at_once
from invad_jax.inference.loader import Detector
from invad_jax.io import files
from invad_jax.io.paths import local
from invad_jax.paradigms import paradigm_of
from invad_jax.scoring import Scores

FORMAT = 1
SCORES = tuple(name for name in Scores._fields if name in MEANING)
MANIFEST = "model.json"
PARTS = ("detector.stablehlo", "arrays.npz", "normals.json", "pictures.npz", "loader.py")
CHANGEABLE = (
    "eval.batch_size",
    "calibration.false_positive_rate",
    "data.max_pixels",
    "data.num_workers",
)
"""Options that are not part of what was exported."""


class Pictures(NamedTuple):
    """Images that are packed with a detector, and what it said of them."""

    image: np.ndarray
    """(n, S, S, 3 or 4) uint8."""
    image_score: np.ndarray
    """(n,) float64."""
    decision: np.ndarray
    """(n,) bool."""
    latent_norm: np.ndarray
    """(n, h, w) float32."""


def write(
    path: Path,
    exported: Exported,
    about: Mapping[str, Any],
    normals: Mapping[str, Any],
    pictures: Pictures,
) -> None:
    """Writes a bundle, whole or not at all.

    Args:
      path: of the file.
      exported: the function.
      about: what `model.json` says besides what the function needs.
      normals: the content of the workdir's `scores.json`.
      pictures: with the results that are expected.
    """
    numbered = {str(i): array for i, array in enumerate(exported.arrays)}
    kept = {name: values for name, values in normals.items() if name != "path"}
    parts = dict(
        zip(
            PARTS,
            (
                exported.module,
                _npz(numbered),
                json.dumps(kept).encode(),
                _npz(pictures._asdict()),
                resources.files(__package__).joinpath("loader.py").read_bytes(),
            ),
            strict=True,
        )
    )
    described = {
        name: {"sha256": sha256(part).hexdigest(), "bytes": len(part)}
        for name, part in parts.items()
    }
    manifest = {"format": FORMAT, **about, **exported.about, "parts": described}
    text = json.dumps(manifest, indent=2, allow_nan=False).encode() + b"\n"
    with files.replaced(path) as temporary, zipfile.ZipFile(temporary, "w") as bundle:
        for name, part in {MANIFEST: text, **parts}.items():
            bundle.writestr(zipfile.ZipInfo(name), part)


class BundleModel:
    """An exported detector in the place of `Model`: what `Predictor` asks of either."""

    encoder = None
    """Is part of the function."""

    def __init__(self, path: Path, overrides: Sequence[str] = ()):
        """Reads and checks a bundle; compiles nothing yet.

        Raises:
          UserError: it is no bundle, damaged, or asked for what it cannot change.
        """
        with _readable(path):
            self._file = local(path)
        _check_stored(path, self._file)
        with _readable(path):
            self._detector = Detector(self._file)
            about = self._detector.about
            if about["format"] > FORMAT:
                raise UserError(f"{path}: was made by a newer invad_jax; take that one")
            exported = config_io.from_dict(about["config"], str(path))
            with zipfile.ZipFile(self._file) as bundle:
                self.normals = json.loads(bundle.read("normals.json"))
                with np.load(io.BytesIO(bundle.read("pictures.npz"))) as arrays:
                    self.pictures = Pictures(**arrays)
            self.component_names = tuple(about["components"])
            self.step = about["step"]
        if missing := [term for term in TERMS if term not in self.normals]:
            raise UserError(
                f"{path}: was exported before scores had {', '.join(missing)}; export it again"
            )
        self.about = about
        self.path = path
        self.config = _overridden(exported, overrides)
        self.paradigm = paradigm_of(self.config)

    @property
    def batch_size(self) -> int:
        """Images that are scored together, at most."""
        grid = self.about["outputs"]["latent_norm"]["shape"]
        return at_once(self.config, grid, 1, jax.default_backend())

    def batch_size_for(self, count: int) -> int:
        """The batch size that so many images, at least 1, are scored in."""
        return fitting(count, self.batch_size)

    def predict(self, image: np.ndarray, batch_size: int | None = None) -> Scores:
        """Scores images as `preprocess.read_image` gives them, any B; see `Model.predict`."""
        found: dict[str, Any] = self.outputs(image, batch_size)
        return Scores(**{name: found[name] for name in SCORES if name in found})

    def outputs(self, image: np.ndarray, batch_size: int | None = None) -> dict[str, np.ndarray]:
        """All that the exported function says of such images, in batches of one size.

        Raises:
          UserError: this JAX cannot read the function, or this machine not run it.
        """
        parts, size = [], batch_size or self.batch_size_for(len(image))
        for start in range(0, len(image), size):
            rows = image[start : start + size]
            padding = [(0, size - len(rows)), (0, 0), (0, 0), (0, 0)]
            parts.append(self.run(np.pad(rows, padding)))
        return {k: np.concatenate([part[k] for part in parts])[: len(image)] for k in parts[0]}

    def exported(self, constants: Constants) -> Exported:
        """The function, with another calibration in its arrays."""
        with _readable(self.path), zipfile.ZipFile(self._file) as bundle:
            module = bundle.read("detector.stablehlo")
        arrays = [np.asarray(array) for array in self._detector.arrays]
        return Exported(module, [*arrays[: -len(constants)], *constants], {})

    def predict_paths(
        self, paths: Sequence[str], skip_unreadable: bool = False, of: int | None = None
    ) -> Iterator[tuple[np.ndarray, Scores]]:
        """Reads and scores image files; see `Model.predict_paths`. For one process."""
        batches = image_batches(
            paths,
            self.config.data,
            self.batch_size_for(of or len(paths)),
            skip_unreadable=skip_unreadable,
        )
        for batch in batches:
            ids = batch["sample_id"]
            scores = self.predict(batch["image"])
            yield ids[ids >= 0], jax.tree.map(lambda rows, ids=ids: rows[ids >= 0], scores)

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """One batch as it is; compiled once for each B."""
        detector = self._detector
        try:
            return jax.device_get(detector.run(detector.arrays, image))
        except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise
            made_by, reason = self.about["made_by"]["jax"], str(error).strip().splitlines()
            raise UserError(
                f"{self.path}: needs JAX {made_by} or newer on {', '.join(self.about['platforms'])}"
                f"; JAX {jax.__version__} on {jax.default_backend()} cannot run it: {reason[0]}"
            ) from error


def _overridden(config: Config, overrides: Sequence[str]) -> Config:
    for name in (assignment.partition("=")[0].strip() for assignment in overrides):
        if name not in CHANGEABLE:
            raise UserError(
                f"--set {name}: is fixed in a bundle; there is {', '.join(CHANGEABLE)}, or export "
                "the workdir again"
            )
    return config_io.override(config, list(overrides))


def _check_stored(path: Path, file: Path) -> None:
    """Raises UserError for a zip file whose parts are larger than the file itself."""
    with _readable(path), zipfile.ZipFile(file) as bundle:
        members = bundle.infolist()
        if sum(member.file_size for member in members) > file.stat().st_size:
            raise UserError(f"{path}: holds more than its size: no bundle of invad_jax")
        missing = {MANIFEST, *PARTS} - {member.filename for member in members}
        if missing:
            raise UserError(f"{path}: no bundle of invad_jax: {', '.join(sorted(missing))} missing")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns all that a damaged file can raise into one line."""
    try:
        yield
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: no bundle, or damaged: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, EOFError, RuntimeError, NotImplementedError) as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged bundle: {what.removeprefix(f'{path}: ')}") from error


def _npz(arrays: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()
