"""Grain pipelines: images once each for the encoder, latents or images endlessly for training.

Both split a global batch over processes, so that all processes together see what one would see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from invad_jax.config import DataConfig
from invad_jax.data.preprocess import blank, read_image
from invad_jax.data.workers import read_all
from invad_jax.errors import UnavailableError, UserError

_THREADS = 8
"""Batches that are decoded at the same time, and held ready, where there are no workers."""

_KEPT_BYTES = 4 * 2**30
"""Decoded training images that a process keeps; what is beyond is decoded in every epoch."""


class Rows(Protocol):
    """What is read at random, row by row: an array, or `latent_cache.Latents`."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> np.ndarray: ...


def image_batches(
    paths: Sequence[str],
    data: DataConfig,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    skip_unreadable: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """Reads every image once, in order, in batches of one size.

    Args:
      paths: N image files, the same list on every process; a sample id is an index into it.
      data: how they are read: its `image_size` is S.
      batch_size: global, over all processes; a multiple of `process_count`.
      process_index: of this process.
      process_count: of all processes. Each yields ceil(N / batch_size) batches.
      skip_unreadable: an image that cannot be read becomes a row like those that fill up the last
        batch, instead of an error.

    Yields:
      `image` (b, S, S, 3) uint8 and `sample_id` (b,) int32, b = batch_size / process_count. Rows
      that fill up the last batch have id -1 and black images. Put side by side in the order of the
      processes, the ids are 0, 1, ..., N - 1, -1, ....

    Raises:
      UserError: an image cannot be read, here or in a worker, and is not to be skipped.
    """
    ids = _padded_ids(len(paths), batch_size, process_count)[:, process_index]  # (batches, b)
    read = _BatchReader(paths, data, skip_unreadable)
    for batch in _read_in_order(read, ids, data.num_workers):
        if "error" in batch:
            raise (UnavailableError if batch["for_now"] else UserError)(batch["error"])
        yield batch


def _read_in_order(
    read: _BatchReader, ids: np.ndarray, num_workers: int
) -> Iterator[dict[str, Any]]:
    """Yields what `read` makes of each row of ids."""
    if num_workers:
        yield from read_all(read, list(ids), num_workers)
        return
    ahead = grain.ReadOptions(_THREADS, prefetch_buffer_size=_THREADS)
    iterator = iter(grain.MapDataset.source(ids).map(read).to_iter_dataset(ahead))
    try:
        yield from iterator
    finally:
        iterator.close()  # stops the threads, also when the caller stops early


def latent_batches(
    latents: Rows,
    seed: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    label: np.ndarray | None = None,
) -> grain.DatasetIterator:
    """Draws latents endlessly; every epoch is a new permutation of all of them.

    The epochs are strung together before they are cut into batches, so no latent is dropped and a
    batch may be larger than the data set. All processes together draw the same global batches as
    one process would, and the state of the iterator is its position, for an exact resume.

    Args:
      latents: N of (h, w, C), any float type; they may lie on disk, read at random.
      seed: of the permutations.
      batch_size: global, over all processes; a multiple of `process_count`.
      process_index: of this process.
      process_count: of all processes.
      label: (N,) int32, the class of each.

    Returns:
      Iterator over `{"latent": (b, h, w, C) float32}`, b = batch_size / process_count, and `label`
      (b,), where there are labels.
    """

    def rows(ids: np.ndarray) -> dict[str, np.ndarray]:
        found = {"latent": np.stack([latents[i] for i in ids], dtype=np.float32)}
        return found if label is None else found | {"label": label[ids]}

    batches = _endless(len(latents), seed, batch_size, process_index, process_count)
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(batches.map(rows).to_iter_dataset(ahead))


def training_image_batches(
    paths: Sequence[str],
    data: DataConfig,
    seed: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Draws images endlessly, in the order and by the rules of `latent_batches`.

    Args:
      paths: N image files, the same list on every process.
      data: how they are read: its `image_size` is S.
      seed: of the permutations.
      batch_size: global, over all processes; a multiple of `process_count`.
      process_index: of this process.
      process_count: of all processes.

    Returns:
      Iterator over `{"image": (b, S, S, 3) uint8}`, b = batch_size / process_count; raises
      UserError when it comes to an image that cannot be read.
    """
    images = _Images(paths, data)
    batches = _endless(len(images), seed, batch_size, process_index, process_count)
    return iter(
        batches.map(lambda ids: {"image": np.stack([images[i] for i in ids])}).to_iter_dataset(
            grain.ReadOptions(_THREADS, prefetch_buffer_size=_THREADS)
        )
    )


def _endless(
    count: int, seed: int, batch_size: int, process_index: int, process_count: int
) -> grain.MapDataset[np.ndarray]:
    """Batches of this process's ids: without end, cutting epochs into batches drops nothing.

    A process has consecutive rows of each global batch, as its devices have: row for row, and so
    noise for noise, the processes together train on what one would.
    """
    local = _local_batch_size(batch_size, process_count)
    rows = slice(process_index * local, (process_index + 1) * local)
    ids = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
    batches = ids.batch(batch_size, drop_remainder=True)
    return batches.map(lambda batch: batch[rows])


class _Images:
    """Random access to image files, decoded once as long as they fit into memory."""

    def __init__(self, paths: Sequence[str], data: DataConfig):
        self._paths = paths
        self._data = data
        self._kept: dict[int, np.ndarray] = {}
        self._most_kept = _KEPT_BYTES // (3 * data.image_size**2)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """(S, S, 3) uint8."""
        image = self._kept.get(index)
        if image is None:
            image = read_image(self._paths[index], self._data)[..., :3]
            if len(self._kept) < self._most_kept:
                self._kept[index] = image
        return image


class _BatchReader:
    """Reads one row of ids; a class, not a closure, because it travels to the workers."""

    def __init__(self, paths: Sequence[str], data: DataConfig, skip_unreadable: bool):
        self.paths = paths
        self.data = data
        self.skip_unreadable = skip_unreadable

    def __call__(self, ids: np.ndarray) -> dict[str, Any]:
        """(b,) ids -> a batch, or the message of the error: grain would wrap an exception."""
        image = blank(len(ids), self.data)
        ids = ids.copy()
        for row, sample_id in enumerate(ids):
            if sample_id >= 0:
                try:
                    image[row] = read_image(self.paths[sample_id], self.data)
                except (UserError, UnavailableError) as error:
                    for_now = isinstance(error, UnavailableError)
                    if for_now or not self.skip_unreadable:
                        return {"error": str(error), "for_now": for_now}
                    ids[row] = -1
        return {"image": image, "sample_id": ids}


def _padded_ids(count: int, batch_size: int, process_count: int) -> np.ndarray:
    """0 .. count - 1, filled up with -1; (batches, process_count, b) int32."""
    local_batch_size = _local_batch_size(batch_size, process_count)
    ids = np.full(-(-count // batch_size) * batch_size, -1, np.int32)
    ids[:count] = np.arange(count)
    return ids.reshape(-1, process_count, local_batch_size)


def _local_batch_size(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise UserError(
            f"batch_size={batch_size}: must be a multiple of the {process_count} processes"
        )
    return batch_size // process_count
