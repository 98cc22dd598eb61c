"""Scores images by an exported detector: this one file, Python, jax and numpy are all it takes.

    detector = Detector("part.invad")
    found = detector([image, ...])  # uint8 RGB, (H, W, 3) each, of any size
    found["decision"], found["image_score"], found["anomaly_map"]

Needs the JAX that exported (`model.json`: `made_by`) or a newer one. Nothing is unpickled.
"""

import dataclasses
import hashlib
import io
import json
import zipfile

import jax
import jax.export
import jax.numpy as jnp
import numpy as np


class Detector:
    """An exported detector on the first device, compiled once for each number of images."""

    def __init__(self, path):
        """Reads a bundle; ValueError where a part of it is not what was exported."""
        with zipfile.ZipFile(path) as bundle:
            self.about = json.loads(bundle.read("model.json"))
            parts = {name: bundle.read(name) for name in self.about["parts"]}
        for name, part in self.about["parts"].items():
            if hashlib.sha256(parts[name]).hexdigest() != part["sha256"]:
                raise ValueError(f"{path}: {name} is damaged: its SHA-256 is another")
        with np.load(io.BytesIO(parts["arrays.npz"]), allow_pickle=False) as arrays:
            self.arrays = jax.device_put([arrays[str(i)] for i in range(len(arrays))])
        self.run = jax.jit(self._function(parts["detector.stablehlo"]))

    def __call__(self, images):
        """Images as uint8 (H, W, 3) -> NumPy arrays with a row for each: `about["outputs"]`."""
        about = self.about["image_size"], self.about.get("channels", 3)
        squares = np.stack([squared(np.asarray(image), *about) for image in images])
        return jax.device_get(self.run(self.arrays, squares))

    def _function(self, module):
        """(arrays, squares (b, S, S, C) uint8) -> outputs, any b, on all platforms exported for.

        The container of `jax.export` takes one more package: a like signature is made instead.
        """
        about, (b,) = self.about, jax.export.symbolic_shape("b")
        square = about["image_size"], about["image_size"], about.get("channels", 3)
        images = jax.ShapeDtypeStruct((b, *square), np.uint8)
        arrays = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in self.arrays]

        def alike(arrays, images):
            of = about["outputs"]
            return {name: jnp.zeros((b, *of[name]["shape"]), of[name]["dtype"]) for name in of}

        export = jax.export.export(jax.jit(alike, keep_unused=True), platforms=about["platforms"])
        exported = dataclasses.replace(export(arrays, images), mlir_module_serialized=module)
        version = about["calling_convention_version"]
        return dataclasses.replace(exported, calling_convention_version=version).call


def squared(image, size, channels):
    """(H, W, 3) uint8 -> (size, size, channels): resized, or with 4 in its own proportions."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image of {image.dtype} {image.shape}: expected uint8 (H, W, 3)")
    if channels == 3:
        return resized(image, (size, size))
    rows, columns = (max(1, round(side * size / max(image.shape))) for side in image.shape[:2])
    around = ((0, size - rows), (0, size - columns), (0, 0))
    inside = np.pad(np.full((rows, columns, 1), 255, np.uint8), around)
    filled = np.pad(resized(image, (rows, columns)), around, mode="edge")
    return np.concatenate([filled, inside], axis=-1)


def resized(image, shape):
    """(H, W, 3) uint8 -> (*shape, 3), bilinear as in Pillow, where taller than wide +-1."""
    for axis, size in ((1, shape[1]), (0, shape[0])):
        if image.shape[axis] != size:  # each pass is rounded to 8 bits
            sums = np.tensordot(_weights(image.shape[axis], size), image.astype(float), (1, axis))
            image = np.clip((sums + 2**21) // 2**22, 0, 255).astype(np.uint8).swapaxes(0, axis)
    return image


def _weights(source, target):
    """(target, source) in units of 2^-22: a triangle as wide as the step, at least two pixels."""
    reach, x = max(source / target, 1.0), np.arange(source)
    centre = (np.arange(target)[:, None] + 0.5) * source / target
    first, end = np.trunc(centre - reach + 0.5), np.trunc(centre + reach + 0.5)
    weight = np.maximum(1 - np.abs(x - centre + 0.5) / reach, 0) * (x >= first) * (x < end)
    return np.floor(weight / weight.sum(axis=1, keepdims=True) * 2**22 + 0.5)
