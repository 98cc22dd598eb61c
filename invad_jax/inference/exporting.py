"""A trained detector as one function of its arrays and of images, for every platform at once.

Nothing is computed in another way than by `Model.predict`; what it adds is the calibration, so that
score and decision come out of it too. Read next: `bundle.py`, the file; `loader.py`, who runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import TERMS
from invad_jax.data import preprocess
from invad_jax.detector import Detector
from invad_jax.inference.in_parts import for_any_platform
from invad_jax.inference.model import Model
from invad_jax.normality.calibrations import Calibrations
from invad_jax.scoring import Scores

PLATFORMS = ("cpu", "cuda", "tpu")
MEANING = {
    "image_score": "higher is more anomalous; about 0 for a typical normal image",
    "decision": "true: anomalous, the score lies above the threshold of the component, or is NaN",
    "component": "index into `components`: the kind of product that the image was judged as",
    "anomaly_map": "the distance of each pixel from normal; higher is more anomalous",
    "latent_norm": "the same on the grid of the latents",
    "nll": "-log density, nats",
    "map_range": "largest minus smallest value of latent_norm",
    "map_mean": "mean of latent_norm",
    "map_max": "largest latent_norm",
    "map_top": "mean of the highest 2 % of latent_norm",
    "extent": "rows and columns of the square that the image fills, from the top left",
}
"""The outputs; each has a row for each image."""


class Constants(NamedTuple):
    """`Calibrations` of K kinds and T terms, in float32 without a loss that a score would show."""

    location: Any
    """(K, T)."""
    remainder: Any
    """(K, T): what is missing of the location in float32; a likelihood is large, its spread not."""
    scale: Any
    """(K, T)."""
    threshold: Any
    """(K,)."""


class Exported(NamedTuple):
    """What a bundle is made of."""

    module: bytes
    """StableHLO of `jax.export`: (arrays, images (b, S, S, 3 or 4) uint8) -> outputs, any b."""
    arrays: list[np.ndarray]
    """The last of them are the `Constants`."""
    about: dict[str, Any]
    """What a loader has to know of the function."""


def export(model: Model, calibrations: Calibrations) -> Exported:
    """Traces a detector for images of its size, for a batch of any size.

    Args:
      model: loaded, with its encoder.
      calibrations: of its scores.
    """
    function, leaves = flat_function(model, for_any_platform(model.encoder.apply), calibrations)
    (b,) = jax.export.symbolic_shape("b")
    _, side, _, channels = preprocess.blank(1, model.config.data).shape
    abstract = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    images = jax.ShapeDtypeStruct((b, side, side, channels), np.uint8)
    jitted = jax.jit(function, keep_unused=True)
    exported = jax.export.export(jitted, platforms=PLATFORMS)(abstract, images)
    shapes = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    about = {
        "image_size": side,
        "channels": channels,
        "platforms": list(PLATFORMS),
        "calling_convention_version": exported.calling_convention_version,
        "outputs": {
            name: {"shape": list(one.shape[1:]), "dtype": one.dtype.name, "means": MEANING[name]}
            for name, one in shapes.items()
        },
        "components": list(calibrations.names),
        "terms": list(calibrations.terms),
    }
    return Exported(exported.mlir_module_serialized, leaves, about)


def flat_function(
    model: Model, encode: Callable[..., jax.Array], calibrations: Calibrations
) -> tuple[Callable[[list[Any], Any], dict[str, Any]], list[np.ndarray]]:
    """(arrays, images (B, S, S, 3) uint8) -> outputs; and these arrays, `Constants` last.

    Args:
      model: of which the function is made.
      encode: its encoder, as it is to be run.
      calibrations: of its scores.
    """
    constants = constants_of(calibrations)
    leaves, tree = jax.tree.flatten(jax.device_get((model.variables, constants)))
    # NumPy's files know no bfloat16, and layers bring their kernels into their own type.
    leaves = [leaf.astype(np.float32) if leaf.dtype == jnp.bfloat16 else leaf for leaf in leaves]
    at_once = model.detector.where._replace(rounds_over=None)
    detector = model.detector._replace(encode=encode, where=at_once)
    return _function(detector, calibrations.terms, tree), leaves


def constants_of(calibrations: Calibrations) -> Constants:
    """The numbers of calibrations as arrays."""
    terms = [one.terms for one in calibrations.each]
    location = np.array([[term.location for term in some] for some in terms])
    rounded = location.astype(np.float32)
    return Constants(
        rounded,
        (location - rounded).astype(np.float32),
        np.array([[term.scale for term in some] for some in terms], np.float32),
        np.array([one.threshold for one in calibrations.each], np.float32),
    )


def judged(constants: Constants, terms: jax.Array, component: jax.Array) -> tuple[Any, Any]:
    """Terms (B, T) and components (B,) to image scores (B,) float32 and decisions (B,) bool."""
    location, remainder, scale, threshold = (array[component] for array in constants)
    score = jnp.sum(((terms - location) - remainder) / scale, axis=1)
    return score, ~(score <= threshold)


def _function(
    detector: Detector, terms: tuple[str, ...], tree: Any
) -> Callable[[list[jax.Array], jax.Array], dict[str, jax.Array]]:
    def function(arrays: list[jax.Array], images: jax.Array) -> dict[str, jax.Array]:
        variables, constants = jax.tree.unflatten(tree, arrays)
        scores: Scores = detector.predict(variables, images)
        values = jnp.stack([getattr(scores, name) for name in terms], axis=1)  # (B, T)
        score, decision = judged(constants, values, scores.component)
        kept = ["component", "anomaly_map", "latent_norm", *TERMS]
        kept += ["extent"] if scores.extent is not None else []
        return {
            "image_score": score,
            "decision": decision,
            **{name: getattr(scores, name) for name in kept},
        }

    return function
