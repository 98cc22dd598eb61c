"""Reading and writing tensors: torch, safetensors and numpy themselves are the oracles."""

import collections
import io
import json
import operator
import os
import pickle
import shutil
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invad_jax.errors import UserError
from invad_jax.io.tensors import check_numbers, read_tensors, write_tensors
from tests.tracing import traced

torch = pytest.importorskip("torch", reason="torch is the oracle")
CONTAINERS = [True, False]  # torch's zip, torch's older stream


def save(obj, path, is_zip=True):
    torch.save(obj, path, _use_new_zipfile_serialization=is_zip)
    return path


def assert_equals_torch(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if tensor.dtype == torch.bfloat16:
            assert found[name].dtype == ml_dtypes.bfloat16
            np.testing.assert_array_equal(found[name].astype(np.float32), tensor.float().numpy())
        else:
            assert found[name].dtype == tensor.numpy().dtype
            np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].shape == tuple(tensor.shape)


def checkpoint():
    base = torch.arange(24.0).reshape(2, 3, 4)
    return {
        "model": collections.OrderedDict(
            transposed=base.permute(2, 0, 1),
            shared=base[1, 1:, ::2],
            expanded=torch.ones(1, 3).expand(4, 3),
            parameter=torch.nn.Parameter(torch.tensor([1.5])),
            scalar=torch.tensor(7),
            empty=torch.empty(0, 3),
        ),
        "steps": [torch.tensor([True, False]), (torch.tensor([3], dtype=torch.int16),)],
        3: torch.tensor([1.0, -2.0]).bfloat16(),
        "epoch": 12, "rate": 0.5, "name": "täst", "none": None,
        "size": torch.Size([2, 3]), "big": 2**70,
    }  # fmt: skip


@pytest.mark.parametrize("is_zip", CONTAINERS)
def test_reads_nested_shared_and_strided_tensors(tmp_path, is_zip):
    content = checkpoint()
    model = {f"model.{name}": tensor.detach() for name, tensor in content["model"].items()}
    others = {"steps.0": content["steps"][0], "steps.1.0": content["steps"][1][0], "3": content[3]}
    assert_equals_torch(read_tensors(save(content, tmp_path / "a.pth", is_zip)), model | others)


@pytest.mark.parametrize("is_zip", CONTAINERS)
@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
     "float64", "complex64", "complex128"],
)  # fmt: skip
def test_every_dtype_of_torch(tmp_path, dtype, is_zip):
    content = {"x": torch.tensor([[0, 1], [1, 0]]).to(getattr(torch, dtype))}
    assert_equals_torch(read_tensors(save(content, tmp_path / "a.pt", is_zip)), content)


@pytest.mark.parametrize("is_zip", CONTAINERS)
def test_module_state_with_its_metadata(tmp_path, is_zip):
    state = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)).state_dict()
    assert hasattr(state, "_metadata")  # pickled as an attribute of the OrderedDict
    assert_equals_torch(read_tensors(save(state, tmp_path / "a.ckpt", is_zip)), state)


def test_later_pickle_protocols(tmp_path):
    content = {"x": torch.arange(4)}
    torch.save(content, tmp_path / "a.bin", pickle_protocol=5)
    assert_equals_torch(read_tensors(tmp_path / "a.bin"), content)


class Runs:
    """Unpickled for real, calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


MALICIOUS = {
    "posix.system": Runs(os.system, "true"),
    "builtins.eval": Runs(eval, "1"),
    "shutil.rmtree": Runs(shutil.rmtree, "/nowhere"),
    "operator.attrgetter": Runs(operator.attrgetter, "a"),
    "builtins.getattr": [torch.zeros(2), {"deep": (Runs(getattr, "", "join"),)}],
    "torch.storage._load_from_bytes": Runs(torch.storage._load_from_bytes, b""),
    "numpy.dtype": np.dtype(np.float32),
}


@pytest.mark.parametrize("is_zip", CONTAINERS)
@pytest.mark.parametrize("name", MALICIOUS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_refuses_by_name_what_it_would_run(tmp_path, name, protocol, is_zip):
    path = tmp_path / "model.pth"
    torch.save({"x": torch.zeros(3), "y": MALICIOUS[name]}, path, pickle_protocol=protocol,
               _use_new_zipfile_serialization=is_zip)  # fmt: skip
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    # Protocol 2 writes the module's Python 2 name, which is what the file then asks for.
    expected = name.replace("builtins.", "__builtin__.") if protocol == 2 else name
    assert str(caught.value) == (
        f"{path}: refused: the file would run {expected}; only tensors are read"
    )


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'true'\no.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "os.system"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"P1\n.", "PERSID"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x04\x8c\x0btorch._utils\x8c\x12_rebuild_tensor_v2\n\x1b[2J\x93.", None),
    ],
)
def test_refuses_handmade_programs(tmp_path, program, named):
    path = tmp_path / "model.bin"
    path.write_bytes(program)
    with pytest.raises(UserError, match=named) as caught:
        read_tensors(path)
    assert str(caught.value).isprintable()


def zip_with(path, program, storage=b"\0" * 16):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", storage)
    return path


def tensor_program(numel=4, offset=0, shape=(4,), strides=(1,), key="0"):
    """The pickle of {"x": tensor}, written by the standard library through a stand-in module."""
    utils = sys.modules["torch._utils"]

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return (
                ("storage", torch.FloatStorage, key, "cpu", numel)
                if isinstance(obj, Storage)
                else None
            )

    call = (Storage(), offset, shape, strides, False, collections.OrderedDict())
    out = io.BytesIO()
    Pickler(out, protocol=2).dump({"x": Runs(utils._rebuild_tensor_v2, *call)})
    return out.getvalue()


@pytest.mark.parametrize(
    "wrong",
    [
        {"numel": 5}, {"numel": 2**62}, {"numel": -4}, {"offset": 1}, {"offset": -1},
        {"shape": (5,)},
        {"strides": (2,)}, {"strides": (-1,)}, {"strides": (1, 1)}, {"shape": (2.0,)},
        {"shape": (-1,)}, {"key": "1"}, {"key": "../data.pkl"}, {"key": 0},
        {"shape": (2**62,), "strides": (0,)}, {"shape": (1,) * 100, "strides": (1,) * 100},
    ],
)  # fmt: skip
def test_refuses_tensors_out_of_bounds(tmp_path, wrong):
    sound = read_tensors(zip_with(tmp_path / "sound.pth", tensor_program()))
    np.testing.assert_array_equal(sound["x"], np.zeros(4, np.float32))
    with pytest.raises(UserError):
        read_tensors(zip_with(tmp_path / "wrong.pth", tensor_program(**wrong)))


def bomb():
    """Lists of ten times the list before: small, but of 10^9 leaves."""
    value = [0]
    for _ in range(9):
        value = [value] * 10
    return value


def endless():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize("content", [bomb(), endless()], ids=["bomb", "endless"])
def test_refuses_containers_without_end(tmp_path, content):
    with pytest.raises(UserError):
        read_tensors(save(content, tmp_path / "a.pth"))


def test_refuses_what_is_ambiguous_or_foreign(tmp_path):
    clash = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}}
    with pytest.raises(UserError, match=r"a\.b"):
        read_tensors(save(clash, tmp_path / "clash.pth"))
    with pytest.raises(UserError, match="without a name"):
        read_tensors(save(torch.zeros(1), tmp_path / "bare.pth"))
    with pytest.raises(UserError, match=r"\.safetensors"):
        read_tensors(tmp_path / "weights.h5")
    with pytest.raises(UserError, match="No such file"):
        read_tensors(tmp_path / "absent.pth")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="holds Python objects"):
        read_tensors(tmp_path / "objects.npz")


def safetensors(path, header, body=b""):
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def entry(begin, end):
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


ODD_SAFETENSORS = {
    "overlapping": {"a": entry(0, 4), "b": entry(2, 8)},
    "the same bytes twice": {"a": entry(0, 8), "b": entry(0, 8)},
    "a hole": {"a": entry(0, 4), "b": entry(6, 8)},
    "a hole before": {"a": entry(1, 8)},
    "bytes left over": {"a": entry(0, 4)},
    "a twin": json.dumps({"a": entry(0, 8), "b": entry(0, 8)}).replace('"b"', '"a"'),
    "a twin within": '{"a": {"dtype": "U8", "dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}',
    "deep": '{"a": ' + "[" * 100_000,
}


@pytest.mark.parametrize("kind", ODD_SAFETENSORS)
def test_refuses_safetensors_that_the_reference_refuses(tmp_path, kind):
    path = safetensors(tmp_path / "a.safetensors", ODD_SAFETENSORS[kind], bytes(8))
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    assert str(caught.value).isprintable()
    if kind == "a twin":
        return  # of which the reference takes the last, in silence
    reference = pytest.importorskip("safetensors", reason="safetensors is the oracle")
    with pytest.raises(reference.SafetensorError):
        reference.deserialize(path.read_bytes())


def test_reads_safetensors_in_any_order_and_empty_ones(tmp_path):
    header = {"b": entry(4, 8), "none": entry(4, 4), "a": entry(0, 4), "last": entry(8, 8)}
    found = read_tensors(safetensors(tmp_path / "a.safetensors", header, bytes(range(8))))
    np.testing.assert_array_equal(found["b"], [4, 5, 6, 7])
    assert {name: len(tensor) for name, tensor in found.items()} == {
        "b": 4, "none": 0, "a": 4, "last": 0
    }  # fmt: skip


def npz_claiming(shape, content=b""):
    """The bytes of an array file whose header says more than it holds."""
    member = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    return member.getvalue() + content


def peak_of(function):
    """What a call allocates at most, in bytes."""
    with traced() as memory:
        function()
        return memory.peak


def test_an_npz_never_takes_more_memory_than_its_size_allows(tmp_path):
    path = tmp_path / "a.npz"
    for content in (npz_claiming((2**40,)), npz_claiming((2**62, 2**62))):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
        with pytest.raises(UserError, match="does not lie in"):
            read_tensors(path)
    np.savez_compressed(path, x=np.zeros(2**24, np.uint8))
    assert read_tensors(path)["x"].size == 2**24  # compresses well, and is no harm
    np.savez_compressed(path, x=np.zeros(2**26, np.uint8))
    size = path.stat().st_size

    def read():
        with pytest.raises(UserError, match="67 MB of tensors in a file of"):
            read_tensors(path)

    assert peak_of(read) < 3 * size + 2**20


def test_an_npz_equals_numpys_own_reading(tmp_path):
    path = tmp_path / "a.npz"
    content = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "scalar": np.float32(3),
        "text": np.array(["a", "bc"]), "empty": np.zeros((0, 4)),
    }  # fmt: skip
    np.savez_compressed(path, **content)
    found = read_tensors(path)
    with np.load(path) as expected:
        assert set(found) == set(content)
        for name in content:
            np.testing.assert_array_equal(found[name], expected[name], strict=True)


def test_refuses_two_members_of_one_name(tmp_path):
    for suffix, name in ((".npz", "x.npy"), (".pth", "archive/data.pkl")):
        path = tmp_path / f"a{suffix}"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, npz_claiming((1,), bytes(4)))
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr(name, npz_claiming((1,), bytes(4)))
        with pytest.raises(UserError):
            read_tensors(path)


@pytest.mark.parametrize("is_zip", CONTAINERS)
def test_a_small_torch_file_does_not_make_large_tensors(tmp_path, is_zip):
    """Strides of zero, or one storage seen a thousand times."""
    path = tmp_path / "a.pth"
    save({"x": torch.zeros(1).expand(10**9)}, path, is_zip)
    with pytest.raises(UserError, match="4000 MB of tensors in a file of"):
        read_tensors(path)
    one = torch.zeros(50_000)
    save({str(i): one for i in range(1000)}, path, is_zip)
    with pytest.raises(UserError, match="of tensors in a file of"):
        read_tensors(path)
    save({str(i): one for i in range(20)}, path, is_zip)
    assert len(read_tensors(path)) == 20


def test_names_do_not_grow_without_end(tmp_path):
    """A thousand leaves under one name of 100 kB."""
    value = [[None] * 100] * 100
    with pytest.raises(UserError, match="refused"):
        read_tensors(save({"x" * 100_000: value}, tmp_path / "a.pth"))


def test_copies_are_counted(tmp_path):
    """A list of 50,000 in the memo, made a tuple a hundred times."""
    program = b"\x80\x02(]q\x01(" + b"N" * 50_000 + b"ectorch\nSize\nq\x02"
    program += b"h\x02h\x01\x85R" * 100 + b"l."
    with pytest.raises(UserError, match="more than 1000000 entries"):
        read_tensors(zip_with(tmp_path / "a.pth", program))


@pytest.mark.parametrize("ending", ["pth", "safetensors", "npz"])
def test_what_has_no_end_is_not_read(tmp_path, ending):
    os.mkfifo(tmp_path / f"pipe.{ending}")
    (tmp_path / f"zero.{ending}").symlink_to("/dev/zero")
    (tmp_path / f"folder.{ending}").mkdir()
    for name in ("pipe", "zero", "folder"):
        with pytest.raises(UserError, match=rf"{name}\.{ending}: cannot be read: "):
            read_tensors(tmp_path / f"{name}.{ending}")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_are_finite(value):
    check_numbers({"a": np.arange(3), "b": np.ones(2, ml_dtypes.bfloat16)})
    with pytest.raises(UserError, match="w holds NaN or infinity"):
        check_numbers({"w": np.array([1.0, value])})
    with pytest.raises(UserError, match="w is complex64"):
        check_numbers({"w": np.zeros(2, np.complex64)})


def arrays():
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "transposed": rng.normal(size=(3, 4)).T,
        "big_endian": np.arange(5, dtype=">i4"),
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 2), np.float16),
        "flags": np.array([True, False]),
    }


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_written_files_read_back_and_are_equal_bytes(tmp_path, ending):
    for name in ("a", "b"):
        write_tensors(tmp_path / f"{name}.{ending}", arrays())
    found = read_tensors(tmp_path / f"a.{ending}")
    assert found.keys() == arrays().keys()
    for name, expected in arrays().items():
        assert found[name].dtype == expected.dtype.newbyteorder("<")
        assert found[name].shape == expected.shape
        np.testing.assert_array_equal(found[name], expected)
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_torch_and_safetensors_read_what_is_written(tmp_path):
    tensors = arrays() | {"bf16": np.array([1.5, -2], ml_dtypes.bfloat16)}
    write_tensors(tmp_path / "a.pth", tensors)
    assert_equals_torch(tensors_native(tensors), torch.load(tmp_path / "a.pth", weights_only=True))
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is the oracle")
    write_tensors(tmp_path / "a.safetensors", tensors)
    assert_equals_torch(tensors_native(tensors), safetensors.load_file(tmp_path / "a.safetensors"))
    safetensors.save_file({"x": torch.ones(2, 3)}, tmp_path / "b.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(read_tensors(tmp_path / "b.safetensors")["x"], np.ones((2, 3)))


def tensors_native(tensors):
    return {name: tensor.astype(tensor.dtype.newbyteorder("=")) for name, tensor in tensors.items()}


def test_refuses_to_write_a_dtype_the_format_lacks(tmp_path):
    for ending, dtype in [("pth", np.uint32), ("safetensors", "c8")]:
        with pytest.raises(UserError, match="cannot hold"):
            write_tensors(tmp_path / f"a.{ending}", {"x": np.zeros(2, dtype)})
    assert list(tmp_path.iterdir()) == []


def sound_files(folder):
    content = {"a": torch.arange(6.0).reshape(2, 3).T, "b": [torch.ones(2).bfloat16()]}
    save(content, folder / "zip.pth")
    save(content, folder / "stream.pth", is_zip=False)
    write_tensors(folder / "a.safetensors", arrays())
    np.savez(folder / "a.npz", **arrays())
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return {p: (p.read_bytes(), read_tensors(p)) for p in sound_files(tmp_path_factory.mktemp("f"))}


@settings(max_examples=200)
@given(which=st.integers(0, 3), cut=st.floats(0, 1, exclude_max=True))
def test_truncated_files_are_refused(sound, which, cut):
    path, (data, _) = list(sound.items())[which]
    damaged = path.with_name("cut").with_suffix(path.suffix)
    damaged.write_bytes(data[: int(cut * len(data))])
    with pytest.raises(UserError) as caught:
        read_tensors(damaged)
    assert str(caught.value).isprintable()


@settings(max_examples=300)
@given(
    which=st.integers(0, 3),
    place=st.floats(0, 1, exclude_max=True),
    value=st.binary(min_size=1, max_size=8),
)
def test_overwritten_bytes_give_a_refusal_or_arrays(sound, which, place, value):
    """Zip has checksums; in the other formats a change may go unnoticed, but not go off."""
    path, (data, expected) = list(sound.items())[which]
    start = int(place * len(data))
    damaged = path.with_name("overwritten").with_suffix(path.suffix)
    damaged.write_bytes(data[:start] + value + data[start + len(value) :])
    try:
        found = read_tensors(damaged)
    except UserError:
        return
    assert all(isinstance(tensor, np.ndarray) for tensor in found.values())
    assert sum(tensor.size for tensor in found.values()) <= sum(t.size for t in expected.values())


def test_imports_neither_jax_nor_torch():
    code = "import sys, invad_jax.io.tensors; print(not {'jax', 'torch'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "True\n"
