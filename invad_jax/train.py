"""Trains the denoiser on the latents of normal images.

    python -m invad_jax.train --config configs/hazelnut.py

Starting it again with the same command resumes from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invad_jax import runtime, training
from invad_jax.assembly import alpha_bar_of, build_detector, init_params
from invad_jax.config import Config
from invad_jax.config_io import config_hash, to_dict
from invad_jax.data import layouts, pipeline
from invad_jax.detector import LatentStats
from invad_jax.encoders import Encoder, build_encoder
from invad_jax.encoding import encode_samples
from invad_jax.inference import load_model
from invad_jax.latent_cache import Latents
from invad_jax.normals import calibrated, check_enough
from invad_jax.runtime import log
from invad_jax.sharding import check_batch, make_mesh
from invad_jax.train_step import make_denoiser_loss
from invad_jax.workdir import Workdir


def main(args: argparse.Namespace) -> None:
    """From a config to a calibrated workdir."""
    config, workdir = runtime.load_config(args), Workdir(runtime.default_workdir(args))
    mesh = make_mesh(config.mesh)
    check_batch("train.batch_size", config.train.batch_size, mesh, config.train.grad_accumulation)
    dataset = layouts.load_dataset(config.data)
    fit, held_out = layouts.hold_out(dataset.train, config.data.holdout_fraction)
    check_enough(config, fit)
    encoder = build_encoder(config.encoder, config.data.image_size)
    build_detector(config, encoder)  # sizes that do not fit are said before anything is written
    workdir.claim(config, write=runtime.is_primary())
    log.info("%d normal images to train on, %d held out", len(fit), len(held_out))

    latents = encode_samples(fit, encoder, config, mesh)
    fitted = train_denoiser(config, workdir, encoder, latents, layouts.fingerprint(fit), mesh)
    if fitted.stopped:
        return
    _, calibration = calibrated(load_model(workdir, config), workdir, (fit, held_out))
    log.info(
        "calibrated on %d %s normals: threshold %.3f", calibration.num_normals,
        "held-out" if held_out else "training", calibration.threshold,
    )  # fmt: skip
    log.info("next: python -m invad_jax.eval --workdir %s", workdir.path)


def latent_stats(latents: Latents | np.ndarray, kind: str) -> LatentStats:
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
    latents: Latents,
    dataset_fingerprint: str,
    mesh: Mesh,
) -> training.Fitted:
    """Runs the loop on encoded images, to the last step of the config; see `training.fit`."""
    cfg = config.train
    return training.fit(
        cfg=cfg,
        init_params=partial(init_params, config, encoder.latent_shape),
        frozen=latent_stats(latents, cfg.latent_stats),
        loss_fn=make_denoiser_loss(
            build_detector(config, encoder).denoise,
            jnp.asarray(alpha_bar_of(config), jnp.float32),
            cfg.min_snr_gamma,
            cfg.latent_noise,
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
    return runtime.run(main, runtime.make_parser(__doc__), argv, preemptible=True)


if __name__ == "__main__":
    sys.exit(cli())
