"""Tensors as torch saves them: a zip archive with a pickle of names and shapes, and no torch."""

from __future__ import annotations

import struct
import zipfile
from typing import IO

import numpy as np

from invad_jax.io.torch_format import DTYPES


def write(out: IO[bytes], tensors: dict[str, np.ndarray]) -> None:
    """A zip checkpoint of a dict of contiguous little-endian tensors."""
    members = {"data.pkl": _pickle_of(tensors), "byteorder": b"little", "version": b"3\n"}
    members |= {f"data/{i}": tensor.tobytes() for i, tensor in enumerate(tensors.values())}
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            # A bare ZipInfo has a fixed date, so that equal tensors make equal files.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)


def _pickle_of(tensors: dict[str, np.ndarray]) -> bytes:
    """{name: _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())}, protocol 2."""
    storage_names = {np.dtype(kind): name for name, kind in DTYPES.items()}
    parts = [b"\x80\x02}("]
    for i, (name, tensor) in enumerate(tensors.items()):
        strides = (stride // tensor.itemsize for stride in tensor.strides)
        parts += [
            _text(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            _text("storage"),
            f"ctorch\n{storage_names[tensor.dtype]}\n".encode(),
            _text(str(i)),
            _text("cpu"),
            _integer(tensor.size),
            b"tQ",
            _integer(0),
            b"(",
            *map(_integer, tensor.shape),
            b"t(",
            *map(_integer, strides),
            b"t",
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]
    return b"".join([*parts, b"u."])


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)
