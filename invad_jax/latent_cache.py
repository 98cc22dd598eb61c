"""Latents of the frozen encoder on disk, so that an image is encoded once.

An entry is found by the content of what made it: the encoder's fingerprint (weights, layers, image
size, preprocessing) and the bytes of every image, in order. A changed image or weight is another
entry, so nothing stale is ever read; a damaged entry is recognised and made anew. The folder may
be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from invad_jax import files

Chunks = Iterable[tuple[np.ndarray, np.ndarray]]
"""Pairs of row numbers (b,), -1 for padding, and their latents (b, h, w, C)."""


def entry(folder: Path, fingerprint: str, content_hashes: Iterable[str]) -> Path:
    """The path of the entry, without a suffix."""
    digest = hashlib.sha256(fingerprint.encode())
    for content_hash in content_hashes:
        digest.update(content_hash.encode())
    return folder / digest.hexdigest()[:32]


def read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The latents (N, h, w, C) float32, memory-mapped, or None if there is no sound entry."""
    try:
        seal = json.loads(path.with_suffix(".json").read_text())
        latents = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    sound = latents.shape == shape and latents.dtype == np.float32
    return latents if sound and seal == _seal(latents) else None


def write(path: Path, shape: tuple[int, ...], chunks: Chunks) -> None:
    """Writes an entry from chunks that arrive in any order.

    The seal is written last: without it, or with another digest, the entry does not exist.
    """
    with files.replaced(path.with_suffix(".npy")) as temporary:
        latents = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        fill(latents, chunks)
        latents.flush()
        seal = _seal(latents)
    files.write_json(path.with_suffix(".json"), seal)


def fill(latents: np.ndarray, chunks: Chunks) -> None:
    """Copies chunks into their rows of (N, h, w, C), leaving padding out."""
    for rows, values in chunks:
        latents[rows[rows >= 0]] = values[rows >= 0]


def cached(
    path: Path,
    shape: tuple[int, ...],
    make: Callable[[], Chunks],
    everywhere: Callable[[bool], bool],
) -> np.ndarray:
    """Reads the entry, or makes it.

    Args:
      path: from `entry`.
      shape: (N, h, w, C).
      make: encodes all images, when needed.
      everywhere: whether something holds on every process; all must choose the same way, since
        encoding is a joint computation.

    Returns:
      (N, h, w, C) float32, memory-mapped where it could be.
    """
    latents = read(path, shape)
    if everywhere(latents is not None):
        assert latents is not None
        return latents
    write(path, shape, make())
    latents = read(path, shape)
    if latents is None:
        raise OSError(f"{path}: cannot be read back right after writing")
    return latents


def _seal(latents: np.ndarray) -> dict[str, str]:
    digest = hashlib.sha256()
    for row in latents:
        digest.update(np.ascontiguousarray(row).data)
    return {"sha256": digest.hexdigest()}
