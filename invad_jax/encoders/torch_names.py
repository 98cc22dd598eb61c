"""Conversion for networks whose modules mirror those of the PyTorch original one to one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from invad_jax.encoders.backbone import Variables
from invad_jax.io.tensor_reader import TensorReader

_TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
"""Order of the axes of a flax kernel, by their number, that gives a torch weight."""


def mirrored_params(
    reader: TensorReader, abstract: Variables, torch_name: Callable[[str], str]
) -> Variables:
    """Reads a tensor for every parameter.

    Args:
      reader: of the file; the caller finishes it.
      abstract: nested dict of `jax.ShapeDtypeStruct`s.
      torch_name: our path (`block_0/fc1/kernel`) -> name in the file, with `weight_name` for the
        last part.

    Returns:
      `abstract` with float32 arrays in the places of the structs.
    """
    flat = {}
    for path, leaf in flatten_dict(abstract, sep="/").items():
        is_kernel = path.endswith("/kernel")
        axes = _TORCH_AXES[leaf.ndim] if is_kernel else tuple(range(leaf.ndim))
        tensor = reader.filled(torch_name(path), tuple(leaf.shape[axis] for axis in axes))
        flat[path] = np.ascontiguousarray(tensor.transpose(np.argsort(axes)), np.float32)
    return unflatten_dict(flat, sep="/")


def dotted(path: str) -> str:
    """Our path with dots, and `weight` where torch says so.

    >>> dotted("encoder/conv_in/kernel"), dotted("norm/scale"), dotted("norm/bias")
    ('encoder.conv_in.weight', 'norm.weight', 'norm.bias')
    """
    module, _, kind = path.rpartition("/")
    kind = "weight" if kind in ("kernel", "scale") else kind
    return f"{module}/{kind}".strip("/").replace("/", ".")
