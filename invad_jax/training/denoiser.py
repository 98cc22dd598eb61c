"""Trains the denoiser on encoded images: the loss, the latent statistics, the loop."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invad_jax.config import Config
from invad_jax.config.io import config_hash, to_dict
from invad_jax.data import pipeline
from invad_jax.detector import LatentStats
from invad_jax.encoders import Encoder
from invad_jax.inference.assembly import denoise, init_params
from invad_jax.inference.latent_cache import Latents
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.runtime import processes
from invad_jax.runtime.workdir import Workdir
from invad_jax.training import loop
from invad_jax.training.step import make_denoiser_loss


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
) -> loop.Fitted:
    """Runs the loop on encoded images, to the last step of the config; see `loop.fit`."""
    cfg = config.train
    return loop.fit(
        cfg=cfg,
        init_params=partial(init_params, config, encoder.latent_shape),
        frozen=latent_stats(latents, cfg.latent_stats),
        loss_fn=make_denoiser_loss(
            partial(denoise, config),
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
            "versions": processes.versions(),
            "dataset": dataset_fingerprint,
            "encoder": encoder.fingerprint,
            "latent_shape": list(encoder.latent_shape),
        },
    )
