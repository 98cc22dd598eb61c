"""Images to latents through the frozen encoder, once: what training and calibration read.

Read next: `latent_cache.py`, where they are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from invad_jax import downloads, latent_cache, runtime
from invad_jax.config import Config
from invad_jax.data import layouts, pipeline
from invad_jax.encoders import Encoder
from invad_jax.sharding import batch_sharding, global_batch, replicated


def encode_samples(
    samples: Sequence[layouts.Sample], encoder: Encoder, config: Config, mesh: Mesh
) -> np.ndarray:
    """The latents of the samples, (N, h, w, C) float32, from the cache where it has them."""
    hashes = [layouts.content_hash(sample.path) for sample in samples]
    path = latent_cache.entry(downloads.cache_dir() / "latents", encoder.fingerprint, hashes)
    shape = (len(samples), *encoder.latent_shape)
    make = partial(_encode, [s.path for s in samples], encoder, config, mesh)
    return latent_cache.cached(path, shape, make, _on_every_process)


def _on_every_process(flag: bool) -> bool:
    return bool(np.all(multihost_utils.process_allgather(np.array(flag))))


def _encode(
    paths: list[str], encoder: Encoder, config: Config, mesh: Mesh
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    batch_size = -(-config.eval.batch_size // mesh.size) * mesh.size
    encode = jax.jit(
        lambda variables, batch: (batch["sample_id"], encoder.apply(variables, batch["image"])),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=replicated(mesh),
    )
    variables = jax.device_put(encoder.variables, replicated(mesh))
    batches = pipeline.image_batches(
        paths, config.data.image_size, batch_size, config.data.num_workers,
        jax.process_index(), jax.process_count(),
    )  # fmt: skip
    with tqdm(
        total=len(paths), desc="encode", unit="image", disable=not runtime.is_primary()
    ) as bar:
        for batch in batches:
            ids, latents = jax.device_get(encode(variables, global_batch(batch, mesh)))
            bar.update(int(np.sum(ids >= 0)))
            yield ids, latents
