"""Shards that any number of processes write and any other number reads; damage is made good."""

import hashlib
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invad_jax.data.pipeline import latent_batches
from invad_jax.errors import UserError
from invad_jax.inference import latent_cache

COUNT, ROWS = 23, 4
"""23 latents, 4 a shard: 6 shards, of which the last holds 3."""
LATENTS = np.random.default_rng(0).standard_normal((COUNT, 3, 2, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(latent_cache, "MIN_ROWS", ROWS)


def run(folder, process_count=1, encode=lambda rows: (LATENTS[row] for row in rows)):
    """All processes, as threads that meet at the barrier -> (their results, rows encoded)."""
    encoded, barrier = [], threading.Barrier(process_count)

    def counted(rows):
        encoded.extend(rows)
        return encode(rows)

    def process(index):
        return latent_cache.cached(
            folder, LATENTS.shape, counted, index, process_count, barrier.wait
        )

    with ThreadPoolExecutor(process_count) as pool:
        return list(pool.map(process, range(process_count))), sorted(encoded)


def files_of(folder):
    return sorted(folder.iterdir())


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).digest() for path in files_of(folder)}


@given(count=st.integers(1, 100_000), rows=st.integers(1, 100))
def test_shards_cover_all_rows_in_order(count, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_cache, "MIN_ROWS", rows)
        shards = latent_cache.shards(count)
    assert [row for shard in shards for row in shard] == list(range(count))
    assert len(shards) <= latent_cache.MAX_SHARDS
    assert all(len(shard) >= rows for shard in shards[:-1])


@pytest.mark.parametrize("process_count", [1, 2, 5, 8])
def test_any_number_of_processes_writes_what_any_other_reads(tmp_path, process_count):
    results, encoded = run(tmp_path / "many", process_count)
    assert encoded == list(range(COUNT))  # each row by one of them
    for latents in results:
        np.testing.assert_array_equal(np.asarray(latents), LATENTS)
    run(tmp_path / "one")
    assert digests(tmp_path / "many") == digests(tmp_path / "one")
    for readers in (1, 3):
        results, encoded = run(tmp_path / "many", readers)
        assert encoded == []
        np.testing.assert_array_equal(np.asarray(results[-1]), LATENTS)


def flip(path):
    """A bit in the middle of the first row's floats."""
    content = bytearray(path.read_bytes())
    content[content.index(LATENTS[8].tobytes()) + 20] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: os.truncate(path, 0),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 100),
    "flipped": flip,
    "another shard": lambda path: shutil.copy(files_of(path.parent)[0], path),
    "no records": lambda path: path.write_bytes(bytes(200_000)),
}


@pytest.mark.parametrize("process_count", [1, 3])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_made_anew_and_no_other(tmp_path, damage, process_count):
    run(tmp_path)
    good = digests(tmp_path)
    DAMAGES[damage](files_of(tmp_path)[2])
    assert digests(tmp_path) != good
    results, encoded = run(tmp_path, process_count)
    assert encoded == [8, 9, 10, 11]
    assert digests(tmp_path) == good
    np.testing.assert_array_equal(np.asarray(results[0]), LATENTS)


def test_sound_checksums_do_not_hide_other_values(tmp_path):
    """A shard of the right name and size, written whole, of an entry with other latents."""
    run(tmp_path / "ours")
    run(tmp_path / "theirs", encode=lambda rows: (LATENTS[row] + 1 for row in rows))
    (ours, *_), (theirs, *_) = files_of(tmp_path / "ours"), files_of(tmp_path / "theirs")
    rows, shape = range(ROWS), LATENTS.shape
    assert latent_cache.is_sound(theirs, rows, shape)  # its seal is of its own values
    assert not latent_cache.is_sound(theirs, range(ROWS, 2 * ROWS), shape)
    assert not latent_cache.is_sound(ours, rows, (COUNT, 5, 2, 3))
    assert not latent_cache.is_sound(ours, range(ROWS - 1), shape)


def test_a_run_that_breaks_off_leaves_whole_shards_only(tmp_path):
    def breaks_off(rows):
        yield from LATENTS[:10]
        raise UserError("an image cannot be read")

    with pytest.raises(UserError, match="an image"):
        run(tmp_path, encode=breaks_off)
    assert len(files_of(tmp_path)) == 2  # 10 rows are two shards and a half
    results, encoded = run(tmp_path)
    assert encoded == list(range(8, COUNT))
    np.testing.assert_array_equal(np.asarray(results[0]), LATENTS)


def test_processes_that_do_not_share_the_folder_are_told(tmp_path):
    with pytest.raises(UserError, match="INVAD_CACHE") as error:
        latent_cache.cached(
            tmp_path, LATENTS.shape, lambda rows: iter(LATENTS[rows]), 0, 2, lambda: None
        )
    assert "\n" not in str(error.value)


def test_latents_are_read_at_random_by_many_threads(tmp_path):
    (latents,), _ = run(tmp_path)
    assert (len(latents), latents.shape, latents.dtype) == (COUNT, LATENTS.shape, np.float32)
    order = np.random.default_rng(1).integers(0, COUNT, 500)
    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_array_equal(list(pool.map(latents.__getitem__, order)), LATENTS[order])
    np.testing.assert_array_equal(list(latents), LATENTS)
    for row in (-1, COUNT):
        with pytest.raises(IndexError):
            latents[row]


def test_training_draws_the_same_from_disk_as_from_memory(tmp_path):
    (latents,), _ = run(tmp_path)
    on_disk, in_memory = (latent_batches(source, 3, 10, 1, 2) for source in (latents, LATENTS))
    for _ in range(12):
        np.testing.assert_array_equal(next(on_disk)["latent"], next(in_memory)["latent"])


def test_an_entry_is_found_by_all_that_made_it(tmp_path):
    entries = {
        latent_cache.entry(tmp_path, fingerprint, hashes)
        for fingerprint in ("one encoder", "another")
        for hashes in (["a", "b"], ["b", "a"], ["a"], [])
    }
    assert len(entries) == 8
    assert latent_cache.entry(tmp_path, "another", iter(["b", "a"])) in entries
