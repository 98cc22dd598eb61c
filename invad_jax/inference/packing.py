"""From a workdir to a bundle: what `model.json` says of it, and the pictures packed with it.

Read next: `exporting.py`, the function; `bundle.py`, the file.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax.config import TERMS, Config
from invad_jax.config.io import config_hash, to_dict
from invad_jax.data import preprocess, samples
from invad_jax.encoders import kept, sources
from invad_jax.errors import UserError
from invad_jax.inference import bundle, exporting, onnx
from invad_jax.inference.bundle import Pictures
from invad_jax.inference.calibrate import calibrate
from invad_jax.inference.kept import read_scores
from invad_jax.inference.load import load_model
from invad_jax.inference.model import Model
from invad_jax.io import files
from invad_jax.normality.calibrations import Calibrations
from invad_jax.runtime import processes
from invad_jax.runtime.workdir import Workdir

PHOTOGRAPHS = 3
"""Normal images that are packed, where they can still be read."""
UNKNOWN = "not known to invad_jax; ask whoever made them"


def pack(
    workdir: Workdir,
    config: Config,
    out: Path | None,
    onnx_out: Path | None = None,
    photographs: bool = True,
) -> None:
    """Writes the bundle of a trained and calibrated workdir, and the same as ONNX.

    Args:
      workdir: trained.
      config: to export under.
      out: the bundle; None: none.
      onnx_out: the ONNX file; None: none.
      photographs: whether the bundle holds some of the normal images.

    Raises:
      UserError: it is not trained or not calibrated for these options, or `out` cannot be written.
    """
    model = load_model(workdir, config)
    calibrations = calibrate(model, workdir, None)
    normals = read_scores(workdir, model) or {}
    about = _about(workdir, model, calibrations)
    if onnx_out:
        onnx.write(model, calibrations, about, onnx_out)
    if not out:
        return
    images = _images(normals["path"], config)
    if not photographs:
        images = images[:1]
    expected = _expected(model, calibrations, images)
    bundle.write(out, exporting.export(model, calibrations), about, normals, expected)


def describe(workdir: Workdir, config: Config) -> dict[str, Any]:
    """What `model.json` would say of a workdir.

    Raises:
      UserError: it is not trained or not calibrated for these options.
    """
    model = load_model(workdir, config)
    return _about(workdir, model, calibrate(model, workdir, None))


def _about(workdir: Workdir, model: Model, calibrations: Calibrations) -> dict[str, Any]:
    return {
        "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "made_by": processes.versions(),
        "workdir": workdir.path.name,
        "step": model.step,
        "made_of": dict(model.made_of),
        "metrics": _metrics(workdir, model),
        "licences": _licences(workdir, model.config),
        **about_calibration(calibrations, model.config),
    }


def about_calibration(calibrations: Calibrations, config: Config) -> dict[str, Any]:
    """What `model.json` says of calibrations, and the config with their false-alarm rate."""
    options = to_dict(config)
    options["data"] |= {"root": "", "region": ""}  # of the machine of the training
    return {
        "calibrated": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "calibration": {
            name: {
                "threshold": one.threshold,
                "false_positive_rate": one.false_positive_rate,
                "num_normals": one.num_normals,
                "terms": {t.name: {"location": t.location, "scale": t.scale} for t in one.terms},
                "heat": list(one.heat),
            }
            for name, one in calibrations
        },
        "config": options,
    }


def _metrics(workdir: Workdir, model: Model) -> Mapping[str, Any] | None:
    """Those of the calibrated score by `eval`, if it was of this very detector; else None."""
    try:
        content = files.read_json(workdir.path / "eval" / "metrics.json")
        same = content["step"] == model.step and content["config_hash"] == config_hash(model.config)
        return content["fusion"]["calibrated"] if same else None
    except (UserError, KeyError, TypeError):
        return None


def _licences(workdir: Workdir, config: Config) -> dict[str, str]:
    return {
        "code": "Apache-2.0",
        **_licence_of_weights(workdir, config),
        f"images ({config.data.name})": samples.LICENCES.get(config.data.name, UNKNOWN),
    }


def _licence_of_weights(workdir: Workdir, config: Config) -> dict[str, str]:
    """Of the encoder; empty where it has none."""
    if config.encoder.name in sources.WITHOUT_WEIGHTS:
        return {}
    source = workdir.encoder / kept.SOURCE
    name = files.read_json(source)["file"] if source.is_file() else config.encoder.weights
    published = sources.SOURCES.get(config.encoder.name)
    known = published.licence if published and config.encoder.weights == "auto" else UNKNOWN
    return {f"weights of the encoder ({name})": known}


def _images(paths: Sequence[str], config: Config) -> np.ndarray:
    """One of noise, of the proportions of a normal one, and a few of the normal images,
    (n, S, S, 3 or 4) uint8."""
    found: list[np.ndarray] = []
    # A name without its folder is of another machine (`staging.py`).
    paths = [path for path in paths if Path(path).name != path]
    for path in paths[:: max(1, len(paths) // PHOTOGRAPHS)][:PHOTOGRAPHS]:
        with suppress(UserError):  # is not here any more
            found.append(preprocess.read_image(path, config.data))
    noise = (found or list(preprocess.blank(1, config.data)))[0].copy()
    noise[..., :3] = np.random.default_rng(0).integers(0, 256, noise[..., :3].shape, np.uint8)
    return np.stack([noise, *found])


def _expected(model: Model, calibrations: Calibrations, images: np.ndarray) -> Pictures:
    """What the trained model says of them."""
    scores = model.predict(images)
    terms = {name: np.asarray(getattr(scores, name), np.float64) for name in TERMS}
    component = np.asarray(scores.component)
    image_score = calibrations.image_score(terms, component)
    decision = calibrations.decide(image_score, component)
    return Pictures(images, image_score, decision, np.asarray(scores.latent_norm))
