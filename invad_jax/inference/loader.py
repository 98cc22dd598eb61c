"""Scores images by an exported detector; needs Python, jax and numpy alone.

`Detector("part.invad")([image, ...])` takes uint8 RGB (H, W, 3) of any size; arrays by name.
"""

import dataclasses
import hashlib
import io
import json
import zipfile

import jax.export
import numpy as np


class Detector:
    """A bundle on the first device; takes the JAX that exported it (`made_by`) or a newer one."""

    def __init__(self, path):
        with zipfile.ZipFile(path) as bundle:
            self.about = json.loads(bundle.read("model.json"))
            parts = {name: bundle.read(name) for name in self.about["parts"]}
        for name, part in self.about["parts"].items():
            if hashlib.sha256(parts[name]).hexdigest() != part["sha256"]:
                raise ValueError(f"{path}: {name} is damaged: its SHA-256 is another")
        with np.load(io.BytesIO(parts["arrays.npz"]), allow_pickle=False) as arrays:
            self.arrays = jax.device_put([arrays[str(i)] for i in range(len(arrays))])
        side, channels = self.about["image_size"], self.about.get("channels", 3)
        self.shape = side, side, channels
        self.run = jax.jit(self._function(parts["detector.stablehlo"]))

    def __call__(self, images):
        """Images as uint8 (H, W, 3) -> NumPy arrays with a row for each: `about["outputs"]`."""
        squares = np.stack([squared(np.asarray(image), *self.shape[1:]) for image in images])
        return jax.device_get(self.run(self.arrays, squares))

    def _function(self, module):
        """(arrays, squares (b, S, S, C)) -> outputs; the container of `jax.export` needs more."""
        about, (b,), of = self.about, jax.export.symbolic_shape("b"), self.about["outputs"]
        images = jax.ShapeDtypeStruct((b, *self.shape), np.uint8)
        arrays = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in self.arrays]

        def alike(arrays, images):
            return {n: jax.numpy.zeros((b, *of[n]["shape"]), of[n]["dtype"]) for n in of}

        export = jax.export.export(jax.jit(alike, keep_unused=True), platforms=about["platforms"])
        its = {"calling_convention_version": about["calling_convention_version"]}
        its["mlir_module_serialized"] = module
        return dataclasses.replace(export(arrays, images), **its).call


def squared(image, size, channels):
    """(H, W, 3) uint8 -> (size, size, channels): resized, or with 4 in its own proportions."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image of {image.dtype} {image.shape}: expected uint8 (H, W, 3)")
    if channels == 3:
        return resized(image, (size, size))
    rows, columns = (max(1, round(side * size / max(image.shape))) for side in image.shape[:2])
    around = ((0, size - rows), (0, size - columns), (0, 0))
    filled = np.pad(resized(image, (rows, columns)), around, mode="edge")
    return np.dstack([filled, np.pad(np.full((rows, columns, 1), 255, np.uint8), around)])


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
    near = (x >= np.trunc(centre - reach + 0.5)) & (x < np.trunc(centre + reach + 0.5))
    weight = np.maximum(1 - np.abs(x - centre + 0.5) / reach, 0) * near
    return np.floor(weight / weight.sum(axis=1, keepdims=True) * 2**22 + 0.5)
