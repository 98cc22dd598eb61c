"""Trains the denoiser on the latents of normal images.

    python -m invad_jax.train --config configs/hazelnut.py

Starting it again with the same command resumes from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from invad_jax import downloads, latent_cache, runtime, training
from invad_jax.assembly import alpha_bar_of, build_detector, init_params
from invad_jax.config import Config, config_hash, to_dict
from invad_jax.data import layouts, pipeline
from invad_jax.detector import LatentStats
from invad_jax.encoders import Encoder, build_encoder
from invad_jax.inference import load_model
from invad_jax.normals import calibrate, score_normals
from invad_jax.runtime import log
from invad_jax.sharding import batch_sharding, check_batch, global_batch, make_mesh, replicated
from invad_jax.train_step import make_denoiser_loss
from invad_jax.workdir import Workdir


def main(args: argparse.Namespace) -> None:
    """From a config to a calibrated workdir."""
    config, workdir = runtime.load_config(args), Workdir(runtime.default_workdir(args))
    mesh = make_mesh(config.mesh)
    check_batch("train.batch_size", config.train.batch_size, mesh)
    dataset = layouts.load_dataset(config.data)
    fit, held_out = layouts.hold_out(dataset.train, config.data.holdout_fraction)
    encoder = build_encoder(config.encoder, config.data.image_size)
    build_detector(config, encoder)  # sizes that do not fit are said before anything is written
    workdir.claim(config, write=runtime.is_primary())
    log.info("%d normal images to train on, %d held out", len(fit), len(held_out))

    latents = encode_samples(fit, encoder, config, mesh)
    try:
        train_denoiser(config, workdir, encoder, latents, layouts.fingerprint(fit), mesh)
    except training.Stopped as stopped:
        log.info("%s", stopped)
        return
    model = load_model(workdir, config)
    normals = score_normals(model, workdir, held_out or fit, held_out=bool(held_out))
    log.info("calibrated on %d %s normals: threshold %.3f", len(normals.nll),
             "held-out" if held_out else "training", calibrate(config, normals).threshold)  # fmt: skip
    log.info("next: python -m invad_jax.eval --workdir %s", workdir.path)


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


def latent_stats(latents: np.ndarray, kind: str) -> LatentStats:
    """Mean and standard deviation of each channel, or 0 and 1 for `none`.

    Args:
      latents: (N, h, w, C) float32; read once, row by row, in float64.
      kind: `channel` or `none`.
    """
    channels = latents.shape[-1]
    if kind == "none":
        return LatentStats(jnp.zeros(channels), jnp.ones(channels))
    total, total_square = np.zeros(channels), np.zeros(channels)
    for row in latents:
        row = np.asarray(row, np.float64)
        total += row.sum((0, 1))
        total_square += np.square(row).sum((0, 1))
    count = np.prod(latents.shape[:3])
    mean = total / count
    std = np.sqrt(np.maximum(total_square / count - mean**2, 0.0))
    std[std < 1e-6] = 1.0  # a channel that never varies stays what it is
    return LatentStats(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def train_denoiser(
    config: Config,
    workdir: Workdir,
    encoder: Encoder,
    latents: np.ndarray,
    dataset_fingerprint: str,
    mesh: Mesh,
) -> None:
    """Runs the loop on encoded images, to the last step of the config."""
    cfg = config.train
    training.fit(
        cfg=cfg,
        init_params=partial(init_params, config, encoder.latent_shape),
        frozen=latent_stats(latents, cfg.latent_stats),
        loss_fn=make_denoiser_loss(
            build_detector(config, encoder).denoise, jnp.asarray(alpha_bar_of(config), jnp.float32)
        ),
        iterator=pipeline.latent_batches(
            latents, cfg.seed, cfg.batch_size, jax.process_index(), jax.process_count()
        ),
        mesh=mesh,
        workdir=workdir,
        meta={
            "config": to_dict(config),
            "config_hash": config_hash(config),
            "versions": runtime.versions(),
            "dataset": dataset_fingerprint,
            "encoder": encoder.fingerprint,
            "latent_shape": list(encoder.latent_shape),
        },
    )


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return runtime.run(main, runtime.make_parser(__doc__), argv)


if __name__ == "__main__":
    sys.exit(cli())
