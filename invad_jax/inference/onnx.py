"""The same function as ONNX, by jax2onnx: for runtimes that know no JAX.

One image at a time; weights are inside. jax2onnx 0.17.1 wants an environment of its own, see
`docs/export.md`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from invad_jax.data import preprocess
from invad_jax.errors import UserError
from invad_jax.inference.exporting import flat_function
from invad_jax.inference.model import Model
from invad_jax.io import files
from invad_jax.normality.calibrations import Calibrations

OPSET = 21
INPUT = "image"


def write(model: Model, calibrations: Calibrations, about: dict[str, Any], out: Path) -> None:
    """Converts a detector, (1, S, S, 3 or 4) uint8 -> the outputs of a bundle, under their names.

    Args:
      model: loaded, with its encoder.
      calibrations: of its scores.
      about: kept in the file's metadata, as JSON.
      out: the file.

    Raises:
      UserError: jax2onnx is not installed, or knows no ONNX for an operation.
    """
    try:
        import onnx
        from jax2onnx import to_onnx
    except ImportError as error:
        raise UserError(
            f"--onnx: {error.name} is not installed; it wants an environment of its own, see "
            "docs/export.md"
        ) from error
    function, leaves = flat_function(model, model.encoder.apply, calibrations)
    arrays = [jnp.asarray(_single(leaf)) for leaf in leaves]
    image = preprocess.blank(1, model.config.data)
    outputs = sorted(jax.eval_shape(function, arrays, image))  # as trees of dicts are flattened
    # Traced first: jax2onnx replaces functions of JAX while it traces, and would meet its own.
    traced = jaxpr_as_fun(jax.make_jaxpr(lambda x: function(arrays, x))(image))
    try:
        converted = to_onnx(lambda x: tuple(traced(x)), [image], opset=OPSET)
    except (RuntimeError, NotImplementedError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--onnx: jax2onnx cannot convert this detector: {reason}") from error
    _name(onnx, converted, outputs)
    onnx.helper.set_model_props(converted, {"invad_jax": json.dumps(about)})
    with files.replaced(out) as temporary:
        onnx.save(converted, str(temporary))


def _single(leaf: np.ndarray) -> np.ndarray:
    """jax2onnx mixes half and single precision where JAX converts one to the other."""
    return leaf.astype(np.float32) if leaf.dtype == np.float16 else leaf


def _name(onnx: Any, converted: Any, outputs: list[str]) -> None:
    """Gives input and outputs the names of a bundle's."""
    graph = converted.graph
    for one, name in zip(graph.output, outputs, strict=True):
        graph.node.append(onnx.helper.make_node("Identity", [one.name], [name]))
        one.name = name
    (given,) = graph.input
    graph.node.insert(0, onnx.helper.make_node("Identity", [INPUT], [given.name]))
    given.name = INPUT
