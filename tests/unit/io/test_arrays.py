"""One `.npz`: whatever is wrong with it is one line; what is not its fault goes past."""

import numpy as np
import pytest

from invad_jax.errors import UnavailableError, UserError
from invad_jax.io.arrays import read_arrays, write_arrays


def test_arrays_are_read_back_and_nothing_else_is_left(tmp_path):
    arrays = {"a": np.arange(3, dtype=np.int16), "b.c": np.float32(2), "text": "key"}
    write_arrays(tmp_path / "x.npz", arrays)
    with read_arrays(tmp_path / "x.npz", "delete it") as found:
        assert {name: (x.dtype.kind, x.tolist()) for name, x in found.items()} == {
            "a": ("i", [0, 1, 2]), "b.c": ("f", 2.0), "text": ("U", "key")
        }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("two"), RuntimeError("zip")])
def test_what_nothing_can_be_made_of_is_the_fault_of_the_file(tmp_path, error):
    write_arrays(tmp_path / "x.npz", {})
    with (
        pytest.raises(UserError, match=r"x\.npz: cannot be read; delete it$"),
        read_arrays(tmp_path / "x.npz", "delete it"),
    ):
        raise error


def test_a_store_that_is_away_is_no_fault_of_the_file(tmp_path):
    write_arrays(tmp_path / "x.npz", {})
    with pytest.raises(UnavailableError), read_arrays(tmp_path / "x.npz", "delete it"):
        raise UnavailableError("gs://b/x: does not answer")
