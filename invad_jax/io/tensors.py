"""Named tensors in files, read without running anything that is in the file.

`.safetensors` and, to read, `.npz` are here; torch's formats, programs, in `torch_format.py`.
NumPy only: neither jax nor torch is imported.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import ml_dtypes
import numpy as np

from invad_jax.errors import UserError
from invad_jax.io import torch_format, torch_writing
from invad_jax.io.files import read_bytes, replaced
from invad_jax.io.growth import check_growth
from invad_jax.io.paths import to_path

T = TypeVar("T")
Tensors = dict[str, np.ndarray]

SAFETENSORS_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
}


class _Writer(NamedTuple):
    write: Callable[[IO[bytes], Tensors], None]
    dtypes: frozenset[np.dtype]


def read_tensors(path: str | Path) -> Tensors:
    """Reads every tensor of a file.

    Args:
      path: a `.safetensors`, `.npz`, `.pth`, `.pt`, `.bin`, `.ckpt` or `.pkl` file.

    Returns:
      name -> array of the stored shape and dtype, perhaps a read-only view. Containers inside
      containers become dotted names (`model.conv.weight`); what is not a tensor is left out.

    Raises:
      UserError: missing, damaged, of another kind, asking for code to be run, or saying that its
        tensors are much larger than it is.
    """
    path = to_path(path)
    read, data = _of_ending(_READERS, path), read_bytes(path)
    try:
        return read(data)
    except UserError as error:
        raise UserError(f"{path}: {_one_line(error)}") from error
    except Exception as error:  # damaged content can trip a parser anywhere
        reason = f"{type(error).__name__}: {_one_line(error)}"
        raise UserError(f"{path}: damaged, or not a {path.suffix} file ({reason})") from error


def check_numbers(tensors: Mapping[str, np.ndarray]) -> None:
    """Raises UserError unless all that is in the tensors is finite in float32."""
    for name, tensor in tensors.items():
        if tensor.dtype.kind not in "fiub" and tensor.dtype != ml_dtypes.bfloat16:
            raise UserError(f"{name} is {tensor.dtype}, which is no real number")
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(np.asarray(tensor, np.float32)).all()
        if not finite:
            raise UserError(f"{name} holds NaN or infinity")


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes named tensors; the same tensors give the same bytes.

    Args:
      path: ends in `.safetensors`, or one of the torch endings, which are written so that
        `torch.load(path, weights_only=True)` reads a dict.
      tensors: name -> array.

    Raises:
      UserError: another ending, a dtype that the format lacks, or a folder that cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> write_tensors(path, {"x": np.arange(3)})
    >>> read_tensors(path)
    {'x': array([0, 1, 2])}
    """
    path = to_path(path)
    writer = _of_ending(_WRITERS, path)
    # order="C" rather than ascontiguousarray, which makes vectors of scalars.
    plain = {k: np.asarray(v, v.dtype.newbyteorder("<"), order="C") for k, v in tensors.items()}
    for name, tensor in plain.items():
        if tensor.dtype not in writer.dtypes:
            raise UserError(f"{path}: {name} is {tensor.dtype}, which {path.suffix} cannot hold")
    with replaced(path) as temporary, temporary.open("wb") as out:
        writer.write(out, plain)


def _one_line(error: Exception) -> str:
    """The message with what a file may have brought into it made harmless to a terminal."""
    return str(error)[:200].encode("unicode_escape").decode()


def _of_ending(known: Mapping[str, T], path: Path) -> T:
    if path.suffix not in known:
        raise UserError(f"{path}: expected a file that ends in {', '.join(known)}")
    return known[path.suffix]


def _read_safetensors(data: bytes) -> Tensors:
    """A length, a JSON header of that length, and the tensors' bytes, of each byte one tensor's."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start], object_pairs_hook=_without_twins)
    header.pop("__metadata__", None)
    body = memoryview(data)[start:]
    tensors = {name: _safetensor(body, **entry) for name, entry in header.items()}
    end = 0
    for begin, next_end in sorted(tuple(entry["data_offsets"]) for entry in header.values()):
        if begin != end:
            raise ValueError(f"bytes {begin} and {end} of it overlap, or are of no tensor")
        end = next_end
    if end != len(body):
        raise ValueError(f"{len(body) - end} bytes at its end are of no tensor")
    return tensors


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of whose keys readers would otherwise take the first or the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _safetensor(body: memoryview, dtype: str, shape: Any, data_offsets: Any) -> np.ndarray:
    kind = np.dtype(SAFETENSORS_DTYPES[dtype])
    begin, end = data_offsets
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError("sizes are not natural numbers")
    if end > len(body) or end - begin != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{shape} of {dtype} does not lie at {begin}..{end} of {len(body)} bytes")
    return np.ndarray(shape, kind, buffer=body[begin:end])


def _write_safetensors(out: IO[bytes], tensors: Tensors) -> None:
    names = {np.dtype(kind): name for name, kind in SAFETENSORS_DTYPES.items()}
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": (begin, end),
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    out.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        out.write(tensor.tobytes())


def _read_npz(data: bytes) -> Tensors:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        check_growth(sum(member.file_size for member in members), len(data))
        found = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in found:
                raise ValueError(f"two members are named {name}")
            with archive.open(member) as stream:
                found[name] = _read_npy(stream, member.file_size)
    return found


def _read_npy(stream: IO[bytes], size: int) -> np.ndarray:
    """An array of a member of `size` bytes, which NumPy would allocate before it looks."""
    header = _NPY_HEADERS[np.lib.format.read_magic(stream)]
    shape, column_major, dtype = header(stream)
    if dtype.hasobject:
        raise UserError("refused: holds Python objects; only tensors are read")
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{shape} of {dtype} does not lie in {size} bytes")
    content = stream.read(math.prod(shape) * dtype.itemsize)
    return np.ndarray(shape, dtype, content, order="F" if column_major else "C")


_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


_TORCH = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
_READERS: dict[str, Callable[[bytes], Tensors]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    **dict.fromkeys(_TORCH, torch_format.read),
}
_WRITERS = {
    ".safetensors": _Writer(
        _write_safetensors, frozenset(map(np.dtype, SAFETENSORS_DTYPES.values()))
    ),
    **dict.fromkeys(
        _TORCH,
        _Writer(torch_writing.write, frozenset(map(np.dtype, torch_format.DTYPES.values()))),
    ),
}
