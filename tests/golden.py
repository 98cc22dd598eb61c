"""What the folder of golden numbers holds of published PyTorch code, and how it is compared."""

import lzma

import numpy as np

FILES = {
    "deco-diff": "deco_diff/last.pt.xz",
    "mad-ad": "mad_ad/last.pt.xz",
    "transfusion": "transfusion/bottle_model.pkl.xz",
    "diad": "diad/epoch=0-step=0.ckpt.xz",
}
"""Files of other detectors, packed."""
HINTS = {system: {"num_heads": 2} for system in ("deco-diff", "mad-ad", "diad")}
"""What no tensor of such a file tells."""


def unpacked(golden_dir, system, folder):
    """The file of another detector, written to a folder; the folder of its numbers."""
    packed = golden_dir / "rivals" / FILES[system]
    file = folder / f"{system}_{packed.stem}"
    file.write_bytes(lzma.decompress(packed.read_bytes()))
    return file, packed.parent


def nhwc(array):
    """torch's (..., C, h, w) as ours."""
    return np.moveaxis(np.asarray(array, np.float32), -3, -1)


def relative_error(actual, expected):
    """The largest, beside the largest value."""
    return np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
