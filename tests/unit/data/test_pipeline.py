"""Batches: every image once over all processes, every latent once an epoch, exact resume."""

import itertools
import json

import grain
import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from invad_jax.config import DataConfig
from invad_jax.data.pipeline import image_batches, latent_batches
from invad_jax.errors import UnavailableError, UserError
from tests.unit.data.layout_trees import of_size

SIZE = 4


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """23 images; image i is filled with the value 10 i."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(23):
        Image.fromarray(np.full((5, 7, 3), 10 * i, np.uint8)).save(folder / f"{i:02d}.png")
    return [str(p) for p in sorted(folder.iterdir())]


@given(
    count=st.integers(0, 23),
    local_batch_size=st.integers(1, 6),
    process_count=st.integers(1, 4),
)
@settings(max_examples=40)
def test_every_id_once_in_equally_many_batches(paths, count, local_batch_size, process_count):
    batch_size = local_batch_size * process_count
    per_process = [
        list(image_batches(paths[:count], of_size(SIZE), batch_size, index, process_count))
        for index in range(process_count)
    ]
    assert {len(batches) for batches in per_process} == {-(-count // batch_size)}
    ids = [
        [int(i) for batch in step for i in batch["sample_id"]]
        for step in zip(*per_process, strict=True)
    ]
    flat = list(itertools.chain.from_iterable(ids))
    assert flat == list(range(count)) + [-1] * (len(flat) - count)
    for batch in itertools.chain.from_iterable(per_process):
        assert batch["image"].shape == (local_batch_size, SIZE, SIZE, 3)
        assert batch["image"].dtype == np.uint8
        assert batch["sample_id"].dtype == np.int32
        expected = np.where(batch["sample_id"] < 0, 0, 10 * batch["sample_id"])
        np.testing.assert_array_equal(batch["image"].min(axis=(1, 2, 3)), expected)
        np.testing.assert_array_equal(batch["image"].max(axis=(1, 2, 3)), expected)


def test_worker_processes_give_the_same_batches(paths):
    threads = list(image_batches(paths, of_size(SIZE), 4))
    workers = list(image_batches(paths, of_size(SIZE, num_workers=2), 4))
    assert len(workers) == len(threads) == 6
    for a, b in zip(threads, workers, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["sample_id"], b["sample_id"])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_is_one_line_after_the_good_batches(paths, tmp_path, num_workers):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    batches = image_batches([*paths[:4], str(bad)], of_size(SIZE, num_workers=num_workers), 4)
    assert next(batches)["sample_id"].tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError) as error:
        next(batches)
    assert str(bad) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_caller_may_stop_early(paths):
    batches = image_batches(paths, of_size(SIZE), 2)
    next(batches)
    batches.close()
    assert list(batches) == []


def test_a_batch_that_does_not_divide_is_refused(paths):
    with pytest.raises(UserError, match="batch_size=6: must be a multiple of the 4 processes"):
        next(image_batches(paths, of_size(SIZE), 6, 0, 4))
    with pytest.raises(UserError, match="batch_size=6: must be a multiple of the 4 processes"):
        latent_batches(numbered(8), 0, 6, 0, 4)


def numbered(count, dtype=np.float32):
    """Latent i is filled with i."""
    return np.broadcast_to(np.arange(count, dtype=dtype)[:, None, None, None], (count, 2, 2, 3))


def draws(iterator, num_batches):
    rows = [next(iterator)["latent"][:, 0, 0, 0].astype(int) for _ in range(num_batches)]
    return np.stack(rows) if rows else np.zeros((0, 0), int)


@given(
    count=st.integers(1, 12),
    batch_size=st.integers(1, 30),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=40)
def test_every_epoch_is_a_permutation_even_if_smaller_than_a_batch(count, batch_size, seed):
    num_batches = -(-3 * count // batch_size)
    flat = draws(latent_batches(numbered(count), seed, batch_size), num_batches).ravel()
    for epoch in flat[: 3 * count].reshape(3, count):
        assert sorted(epoch) == list(range(count))


def test_epochs_and_seeds_differ():
    epochs = draws(latent_batches(numbered(50), 0, 50), 2)
    other = draws(latent_batches(numbered(50), 1, 50), 1)
    again = draws(latent_batches(numbered(50), 0, 50), 2)
    # 50! orders: equal ones do not occur by chance
    assert epochs[0].tolist() != epochs[1].tolist()
    assert epochs[0].tolist() != other[0].tolist()
    np.testing.assert_array_equal(epochs, again)


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_global_batches_of_one(process_count):
    whole = draws(latent_batches(numbered(21), 3, 8), 11)
    parts = np.concatenate(
        [
            draws(latent_batches(numbered(21), 3, 8, index, process_count), 11)
            for index in range(process_count)
        ],
        axis=1,
    )
    np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("broken_after", [0, 1, 7])
def test_resume_equals_unbroken(broken_after):
    unbroken = draws(latent_batches(numbered(10), 5, 4), 12)
    first = latent_batches(numbered(10), 5, 4)
    draws(first, broken_after)
    state = json.loads(json.dumps(first.get_state()))  # as a checkpoint keeps it
    second = latent_batches(numbered(10), 5, 4)
    draws(second, 3)  # what was drawn before the state is set does not matter
    second.set_state(state)
    np.testing.assert_array_equal(draws(second, 12 - broken_after), unbroken[broken_after:])


def test_state_survives_the_checkpoint_handler(tmp_path):
    unbroken = draws(latent_batches(numbered(10), 5, 4), 12)
    iterator = latent_batches(numbered(10), 5, 4)
    draws(iterator, 5)
    handler = grain.checkpoint.CheckpointHandler()
    (tmp_path / "data").mkdir()
    handler.save(epath.Path(tmp_path / "data"), iterator)
    restored = latent_batches(numbered(10), 5, 4)
    handler.restore(epath.Path(tmp_path / "data"), restored)
    np.testing.assert_array_equal(draws(restored, 7), unbroken[5:])


def test_latents_are_grain_iterators_of_float32_from_any_storage(tmp_path):
    np.save(tmp_path / "latents.npy", numbered(6, np.float16))
    mapped = np.load(tmp_path / "latents.npy", mmap_mode="r")
    iterator = latent_batches(mapped, 0, 3)
    assert isinstance(iterator, grain.DatasetIterator)
    batch = next(iterator)
    assert batch["latent"].shape == (3, 2, 2, 3)
    assert batch["latent"].dtype == np.float32
    assert type(batch["latent"]) is np.ndarray


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_may_be_left_out(paths, tmp_path, num_workers):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG")
    data = DataConfig(image_size=SIZE, num_workers=num_workers)
    mixed = [*paths[:3], str(bad), *paths[3:5]]
    batches = list(image_batches(mixed, data, 4, skip_unreadable=True))
    assert [batch["sample_id"].tolist() for batch in batches] == [[0, 1, 2, -1], [4, 5, -1, -1]]
    assert not batches[0]["image"][3].any()


def test_a_store_that_is_away_makes_no_image_unreadable(tmp_path, monkeypatch):
    def away(*_):
        raise UnavailableError("gs://b/a.png: does not answer")

    monkeypatch.setattr("invad_jax.data.pipeline.read_image", away)
    batches = image_batches(["gs://b/a.png"], DataConfig(), 1, skip_unreadable=True)
    with pytest.raises(UnavailableError, match="does not answer"):
        list(batches)
