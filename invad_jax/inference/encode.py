"""Images to latents through the frozen encoder, once: what training and calibration read.

Encoding is no joint computation: each process encodes the rows of its own shards on its own
devices. Read next: `latent_cache.py`, where they are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from invad_jax.config import Config, MeshConfig
from invad_jax.data import layouts
from invad_jax.encoders import Encoder
from invad_jax.inference import latent_cache
from invad_jax.inference.images import run_on_images
from invad_jax.inference.in_parts import in_parts
from invad_jax.inference.latent_cache import Latents
from invad_jax.io import downloads
from invad_jax.runtime import processes
from invad_jax.runtime.sharding import batch_sharding, make_mesh, put, replicated


def encode_samples(
    samples: Sequence[layouts.Sample], encoder: Encoder, config: Config, mesh: Mesh
) -> Latents:
    """The latents of the samples, from the cache where it has them; called by all processes.

    The encoder runs, and its weights go to the devices, only for what the cache lacks.
    """
    hashes = [layouts.content_hash(sample.path) for sample in samples]
    reading = "".join(f" {value!r}" for value in config.data.value_range)
    if config.data.aspect != "stretch":
        reading += f" {config.data.aspect}"
    folder = latent_cache.entry(
        downloads.shared_cache_dir() / "latents", encoder.fingerprint + reading, hashes
    )
    return latent_cache.cached(
        folder,
        (len(samples), *encoder.latent_shape),
        partial(_encode, [s.path for s in samples], encoder, config, mesh.size),
        jax.process_index(),
        jax.process_count(),
        partial(processes.barrier, "latents"),
    )


def _encode(
    paths: Sequence[str], encoder: Encoder, config: Config, device_count: int, rows: Sequence[int]
) -> Iterator[np.ndarray]:
    """Yields the latents of some of the images, (h, w, C) float32, in the order of `rows`."""
    mesh = make_mesh(MeshConfig(), jax.local_devices())
    # The share of a device is what it would be if all processes encoded one batch together.
    batch_size = -(-config.eval.batch_size // device_count) * mesh.size
    encode = jax.jit(
        in_parts(encoder.apply, mesh),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=replicated(mesh),
    )
    variables = put(encoder.variables, replicated(mesh))
    asked = [paths[row] for row in rows]
    batches = run_on_images(encode, variables, asked, config.data, batch_size, mesh)
    quiet = not processes.is_primary()
    with tqdm(total=len(rows), desc="encode", unit="image", disable=quiet) as bar:
        for ids, latents in batches:
            bar.update(len(ids))
            yield from latents
