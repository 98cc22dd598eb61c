"""Trains the denoiser on encoded images: the loss, the latent statistics, the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invad_jax.config import Config
from invad_jax.config.io import config_hash, to_dict
from invad_jax.data import pipeline
from invad_jax.data.dataset import Sample, fingerprint
from invad_jax.detector import LatentStats
from invad_jax.encoders import Encoder
from invad_jax.errors import UserError
from invad_jax.inference.assembly import init_params, outputs
from invad_jax.inference.latent_cache import Latents
from invad_jax.inference.load import restore
from invad_jax.inference.whitening import white_rows
from invad_jax.normality import gaussian
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms import objective_of, paradigm_of
from invad_jax.paradigms.classes import class_numbers
from invad_jax.runtime import processes
from invad_jax.runtime.log import log
from invad_jax.runtime.workdir import Workdir
from invad_jax.training import loop
from invad_jax.training.held_out import HeldOut
from invad_jax.training.step import LossFn, make_loss


def latent_stats(latents: Latents | np.ndarray, kind: str) -> LatentStats:
    """Mean and standard deviation of each channel, or 0 and 1 for `none`.

    Args:
      latents: (N, h, w, C) float32; read once, row by row, in float64.
      kind: `train.latent_stats`.
    """
    channels = latents.shape[-1]
    if kind == "none":
        return LatentStats(jnp.zeros(channels), jnp.ones(channels))
    total, total_square, count = np.zeros(channels), np.zeros(channels), 0
    for row in latents:
        row = np.asarray(row, np.float64)
        total += np.nansum(row, (0, 1))  # positions that take no part are NaN
        total_square += np.nansum(np.square(row), (0, 1))
        count += int(np.isfinite(row[..., 0]).sum())
    mean = total / count
    std = np.sqrt(np.maximum(total_square / count - mean**2, 0.0))
    std[std < 1e-6] = 1.0  # a channel that never varies stays what it is
    return LatentStats(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def needed(config: Config) -> Lessons:
    """What normal images have to teach, before training and after it."""
    lessons = paradigm_of(config).lessons
    if config.train.latent_stats == "whiten" and not lessons.gaussians:
        return lessons._replace(gaussians=gaussian.fit, components=config.scoring.components)
    return lessons


def denoiser_loss(config: Config) -> LossFn:
    """What training minimises."""
    standardised = config.train.latent_stats == "whiten"
    return make_loss(partial(outputs, config), objective_of(config), standardised)


def _initial(config: Config, meta: dict[str, Any], mesh: Mesh) -> Callable[[jax.Array], Any]:
    """What parameters training starts from: random ones, or a teacher's.

    Raises:
      UserError: there is no teacher, or one of other sizes or images.
    """
    objective, shape = objective_of(config), tuple(meta["latent_shape"])
    if not objective.copies:
        return partial(init_params, config, shape)
    name = config.train.teacher
    if not name:
        raise UserError(f"train.objective={config.train.objective}: give train.teacher=WORKDIR")
    teacher = Workdir(name)
    its_config = teacher.read_config()
    restored = restore(teacher, its_config, mesh)
    for what, ours, theirs in (
        ("denoiser", config.denoiser, its_config.denoiser),
        ("diffusion", config.diffusion, its_config.diffusion),
        ("grid", shape, restored.latent_shape),
        ("encoder", meta["encoder"], restored.encoder),
        ("images", meta["dataset"], restored.made_of["dataset"]),
    ):
        if ours != theirs:
            raise UserError(f"train.teacher={name}: was trained with another {what}")
    params = jax.device_get(restored.ema_params)
    copies = dict.fromkeys(objective.copies, params)
    return lambda rng: init_params(config, shape, rng) | copies if objective.judges else copies


def trained(config: Config, latent_shape: tuple[int, int, int]) -> loop.Trained:
    """What is trained, from random parameters, before anything is known of the images."""
    channels: Any = jax.ShapeDtypeStruct(latent_shape[-1:], np.float32)
    initial = partial(init_params, config, latent_shape)
    stats = LatentStats(channels, channels)
    return loop.Trained(config.train, initial, stats, denoiser_loss(config))


def batch_shapes(
    config: Config, rows: int, latent_shape: tuple[int, int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
    """What training takes a batch of so many rows as."""
    shapes = {"latent": jax.ShapeDtypeStruct((rows, *latent_shape), jnp.float32)}
    if _is_told(config):
        shapes["label"] = jax.ShapeDtypeStruct((rows,), jnp.int32)
    return shapes


def _is_told(config: Config) -> bool:
    """Whether the network learns with the class of each image."""
    return "label" in dict(objective_of(config).sees)


def _labels(config: Config, samples: Sequence[Sample]) -> np.ndarray | None:
    """The class of each image, (N,) int32, where the network is told: the place of its category in
    alphabetical order."""
    if not _is_told(config):
        return None
    categories = [sample.category for sample in samples]
    names = sorted(set(categories))
    numbers = class_numbers(config.denoiser, names)
    return numbers[[names.index(name) for name in categories]]


def train_denoiser(
    config: Config,
    workdir: Workdir,
    encoder: Encoder,
    latents: Latents,
    samples: Sequence[Sample],
    held_out: Latents | None,
    mesh: Mesh,
    profile: int = 0,
) -> tuple[loop.Fitted, np.ndarray | None]:
    """Runs the loop on encoded images, to the last step of the config; see `loop.fit`.

    Args:
      config: the experiment.
      workdir: claimed by it.
      encoder: that made the latents.
      latents: (N, h, w, C) float32.
      samples: the N normal images.
      held_out: (n, h, w, C) float32 of normal images that are kept out of training.
      mesh: devices.
      profile: steps that are traced.

    Returns:
      How far it came, and of white latents what it trained on, `White.rows`.
    """
    cfg = config.train
    stats = latent_stats(latents, cfg.latent_stats)
    meta = {
        "config": to_dict(config),
        "config_hash": config_hash(config),
        "versions": processes.versions(),
        "dataset": fingerprint(samples),
        "encoder": encoder.fingerprint,
        "latent_shape": list(encoder.latent_shape),
    }
    white, judge = None, None
    loss_fn = denoiser_loss(config)
    if cfg.latent_stats == "whiten":
        categories = [sample.category for sample in samples]
        new = None if held_out is None else np.asarray(held_out)
        white = white_rows(config, workdir, stats, np.asarray(latents), categories, new, meta, mesh)
        meta["coordinates"] = white.key
        if white.held_out is None and cfg.num_steps:
            log.info("no normal image is held out: nothing decides whether the network is kept")
        if white.held_out is not None:
            judge = HeldOut(loss_fn, stats, white.held_out, config.eval.batch_size, mesh)
    rows = white.rows if white else latents
    fitted = loop.fit(
        cfg=cfg,
        init_params=_initial(config, meta, mesh),
        frozen=stats,
        loss_fn=loss_fn,
        iterator=pipeline.latent_batches(
            rows,
            cfg.seed,
            cfg.batch_size,
            jax.process_index(),
            jax.process_count(),
            _labels(config, samples),
        ),
        mesh=mesh,
        workdir=workdir,
        meta=meta,
        held_out=judge,
        profile=profile,
    )
    return fitted, white.rows if white else None
