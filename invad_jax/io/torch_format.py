"""torch's checkpoint formats read without torch: the zip of version 1.6 on, and the older stream.

Either holds a pickle, which is a program: unpickling runs whatever it names. Here it is parsed by
an interpreter that knows containers, scalars and tensors, imports nothing, and refuses the rest by
name. Tensors stay descriptions (`_Tensor`) until their storages are at hand.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from invad_jax.errors import UserError
from invad_jax.io.growth import check_growth

DTYPES = {
    "BoolStorage": np.bool_,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}

STREAM_MAGIC, STREAM_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

MAX_LEAVES = 1_000_000
"""A pickle can hold a container in itself many times over; more leaves than this are an attack."""


@dataclass(frozen=True)
class _Global:
    """`module.name` as a pickle names it; never imported."""

    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    numel: int


@dataclass(frozen=True)
class _Tensor:
    """A strided view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# Containers: where the pickle and the storages lie.


def read(data: bytes) -> dict[str, np.ndarray]:
    """Named tensors of a whole file; raises UserError for a refusal, anything for damage."""
    return _read_zip(data) if data.startswith(b"PK") else _read_stream(data)


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        sizes = [info.file_size for info in archive.infolist()]
        if len(members) < len(sizes) or sum(sizes) > len(data):
            raise ValueError("its members overlap, or share a name")
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise UserError("refused: compressed, which torch's own files never are")
        if "byteorder" in members:
            _check_byte_order(archive.read(members["byteorder"]) == b"little")
        tree = _parse_pickle(io.BytesIO(archive.read(members["data.pkl"])), {})
        tensors = _named_tensors(tree, len(data))
        storages = {
            key: archive.read(members[f"data/{key}"])
            for key in {tensor.storage.key for tensor in tensors.values()}
        }
    return {name: _view(tensor, storages) for name, tensor in tensors.items()}


def _read_stream(data: bytes) -> dict[str, np.ndarray]:
    """Five pickles (magic, protocol, machine, content, storage keys), then the storages."""
    stream = io.BytesIO(data)
    for expected in (STREAM_MAGIC, STREAM_PROTOCOL):
        if _parse_pickle(stream, {}) != expected:
            raise ValueError("no magic number")
    _check_byte_order(_parse_pickle(stream, {})["little_endian"])
    declared: dict[str, _Storage] = {}
    tensors = _named_tensors(_parse_pickle(stream, declared), len(data))
    storages = {}
    for key in _parse_pickle(stream, {}):
        numel = int.from_bytes(stream.read(8), "little")
        storages[key] = stream.read(numel * declared[key].dtype.itemsize)
    return {name: _view(tensor, storages) for name, tensor in tensors.items()}


def _check_byte_order(is_little: bool) -> None:
    if not is_little:
        raise UserError("refused: written on a big-endian machine; save it again on another")


def _named_tensors(tree: Any, file_size: int) -> dict[str, _Tensor]:
    if isinstance(tree, _Tensor):
        raise UserError("holds one tensor without a name; expected a dict of tensors")
    found: dict[str, _Tensor] = {}
    grown = 0
    for count, (name, leaf) in enumerate(_leaves(tree, "")):
        if count >= MAX_LEAVES:
            raise UserError(f"refused: more than {MAX_LEAVES} entries")
        grown += len(name)
        if isinstance(leaf, _Tensor):
            if name in found:
                raise UserError(f"two of its tensors are named {name}")
            found[name] = leaf
            grown += math.prod(_naturals(leaf.shape)) * leaf.storage.dtype.itemsize
        check_growth(grown, file_size)
    return found


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Whatever is no container, and empty containers, with dotted names."""
    if not isinstance(tree, dict | list | tuple) or not tree:
        yield name, tree
        return
    for key, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from _leaves(child, f"{name}.{key}" if name else str(key))


def _view(tensor: _Tensor, storages: dict[str, bytes]) -> np.ndarray:
    """The array over its storage's memory, every bound checked."""
    data, dtype = storages[tensor.storage.key], tensor.storage.dtype
    shape, strides = _naturals(tensor.shape), _naturals(tensor.strides)
    (offset,) = _naturals((tensor.offset,))
    if len(data) != tensor.storage.numel * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for {tensor.storage.numel} elements")
    if 0 in shape:
        return np.empty(shape, dtype)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if last >= tensor.storage.numel:
        raise ValueError(f"element {last} of a storage of {tensor.storage.numel}")
    byte_strides = [stride * dtype.itemsize for stride in strides]
    return np.ndarray(shape, dtype, data, offset * dtype.itemsize, byte_strides)


def _naturals(values: Any) -> tuple[int, ...]:
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("sizes are not natural numbers")
    return tuple(values)


# The pickle: what may be called, and the instructions.


def _storage(
    kind: Any, storage_type: _Global, key: Any, device: Any, numel: Any, *view: Any
) -> _Storage:
    if kind != "storage" or type(key) is not str or view not in ((), (None,)):
        raise ValueError("a persistent object that is no plain storage")
    return _Storage(key, np.dtype(_STORAGES[storage_type.name]), *_naturals((numel,)))


def _dict(pairs: Iterable[Any]) -> dict[Any, Any]:
    """Only with plain keys: to hash a deeply nested tuple would overflow the C stack."""
    pairs = list(pairs)
    if not all(isinstance(key, str | int) for key, _ in pairs):
        raise ValueError("a key that is neither text nor a number")
    return dict(pairs)


_STORAGES = {f"{m}.{name}": kind for m in ("torch", "torch.cuda") for name, kind in DTYPES.items()}
_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda pairs=(): _dict(pairs),
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor_v2": lambda *arguments: _Tensor(*arguments[:4]),
    "torch._utils._rebuild_parameter": lambda data, *_: data,
}
_RECORDS = frozenset({"argparse.Namespace"})
"""Objects of no behaviour that may lie beside tensors: an empty dict stands for each."""
_CONSTANTS = frozenset(
    """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 STRING BINSTRING SHORT_BINSTRING
    """.split()
)
_EMPTY: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_POPS = {
    **dict.fromkeys(("APPEND", "BUILD", "BINPERSID", "TUPLE1"), 1),
    **dict.fromkeys(("TUPLE2", "SETITEM", "REDUCE", "NEWOBJ", "STACK_GLOBAL"), 2),
    "TUPLE3": 3,
}
_POPS_TO_MARK = frozenset({"DICT", "LIST", "TUPLE", "SETITEMS", "APPENDS"})


def _parse_pickle(stream: io.BytesIO, storages: dict[str, _Storage]) -> Any:
    """Interprets one pickle and leaves the stream right after it.

    Args:
      stream: at the start of a pickle.
      storages: receives every storage that the pickle declares.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    copied = 0
    for opcode, argument, _ in pickletools.genops(stream):
        name: str = opcode.name
        if name in _CONSTANTS:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "GLOBAL":
            stack.append(_known(str(argument).replace(" ", ".")))
        elif name in _POPS or name in _POPS_TO_MARK:
            start = len(stack) - _POPS[name] if name in _POPS else marks.pop()
            items = stack[start:]
            del stack[start:]
            _combine(name, items, stack, storages)
            if name == "REDUCE":  # copies what may lie in the memo
                copied += len(stack[-1]) if isinstance(stack[-1], dict | tuple) else 0
                if copied > MAX_LEAVES:
                    raise UserError(f"refused: more than {MAX_LEAVES} entries")
        elif name not in ("PROTO", "FRAME", "STOP"):
            _refuse(str(argument).replace(" ", ".") if name == "INST" else f"instruction {name}")
    (value,) = stack
    return value


def _known(name: str) -> _Global:
    if name not in _CALLS and name not in _STORAGES and name not in _RECORDS:
        _refuse(name)
    return _Global(name)


def _refuse(what: str) -> NoReturn:
    raise UserError(f"refused: the file would run {what[:100]}; only tensors are read")


def _combine(name: str, items: list[Any], stack: list[Any], storages: dict[str, _Storage]) -> None:
    """Carries out an instruction that builds something from the `items` it took off the stack."""
    match name:
        case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(tuple(items))
        case "LIST":
            stack.append(items)
        case "APPEND" | "APPENDS":
            stack[-1].extend(items)
        case "DICT":
            stack.append(_dict(zip(items[::2], items[1::2], strict=True)))
        case "SETITEM" | "SETITEMS":
            stack[-1].update(_dict(zip(items[::2], items[1::2], strict=True)))
        case "STACK_GLOBAL":
            stack.append(_known(".".join(items)))
        case "BINPERSID":
            storage = _storage(*items[0])
            storages[storage.key] = storage
            stack.append(storage)
        case "REDUCE":
            stack.append(_CALLS[items[0].name](*items[1]))
        case "NEWOBJ":
            if items[0].name not in _RECORDS or items[1]:
                _refuse(f"instruction {name} of {items[0].name}")
            stack.append({})
        case "BUILD":
            pass  # attributes that a state_dict carries beside its items
