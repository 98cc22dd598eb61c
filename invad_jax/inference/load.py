"""The detector of a workdir: what was trained and learnt, loaded.

Read next: `model.py`, what it becomes; `runtime/workdir.py`, where it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from invad_jax.config import Config, MeshConfig
from invad_jax.data import masks
from invad_jax.detector import LatentStats
from invad_jax.encoders import Encoder, build_encoder
from invad_jax.encoders import kept as kept_weights
from invad_jax.errors import UserError
from invad_jax.inference import components
from invad_jax.inference.assembly import abstract_params, for_scoring, in_precision
from invad_jax.inference.kept import read_precision
from invad_jax.inference.model import Model
from invad_jax.normality import whitening
from invad_jax.normality.whitening import FittedCoordinates
from invad_jax.runtime import log, memory
from invad_jax.runtime.checkpoint import Checkpoints, abstract_like
from invad_jax.runtime.sharding import make_mesh, replicated
from invad_jax.runtime.workdir import Workdir


class Restored(NamedTuple):
    """The newest checkpoint of a workdir, as evaluation needs it."""

    params: Any
    ema_params: Any
    latent_stats: LatentStats
    latent_shape: tuple[int, int, int]
    encoder: str | None
    """Fingerprint of the encoder; None for a converted checkpoint, which knows no encoder."""
    step: int
    coordinates: FittedCoordinates | None
    """In which normal latents are N(0, I), where the network was trained in them."""
    made_of: dict[str, Any]
    """`dataset`, `encoder` and `config_hash` of the training; None where not known."""


def restore(workdir: Workdir, config: Config, mesh: Mesh) -> Restored:
    """Reads the newest checkpoint, replicated on the mesh.

    Raises:
      UserError: no checkpoint.
    """
    with log.quiet(), Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
        meta = checkpoints.meta()
        if "latent_shape" not in meta:
            raise UserError(
                f"{workdir.path}: holds a VAE, not a detector; train one with "
                f"--set encoder.name=vae encoder.weights={workdir.path}"
            )
        h, w, C = meta["latent_shape"]
        params = abstract_params(config, (h, w, C))
        channels: Any = jax.ShapeDtypeStruct((C,), np.float32)
        abstract = {
            "params": params,
            "ema_params": params,
            "frozen": LatentStats(channels, channels),
        }
        shardings = jax.tree.map(lambda _: replicated(mesh), abstract)
        model = checkpoints.restore_model(abstract_like(abstract, shardings))
        step = checkpoints.latest_step() or 0
    return Restored(
        model["params"],
        model["ema_params"],
        model["frozen"],
        (h, w, C),
        meta["encoder"],
        step,
        read_coordinates(workdir, meta),
        {name: meta.get(name) for name in ("dataset", "encoder", "config_hash")},
    )


def read_coordinates(workdir: Workdir, meta: dict[str, Any]) -> FittedCoordinates | None:
    """Those that a checkpoint was trained in.

    Raises:
      UserError: they are not there, damaged, or of another training.
    """
    if meta.get("coordinates") is None:
        return None
    fitted, key = whitening.read(workdir.coordinates)
    if key != meta["coordinates"]:
        raise UserError(f"{workdir.coordinates}: is of another training than the checkpoint")
    return fitted


def in_one_precision(workdir: Workdir, config: Config, mesh: Mesh) -> Config:
    """The config with `denoiser.dtype=auto` decided: thresholds and scores have the same rounding.

    On whatever devices it is the precision of the workdir's first calibration, and before that what
    these devices are made for.
    """
    if config.denoiser.dtype != "auto":
        return config
    if first := read_precision(workdir):
        return in_precision(config, first)
    return for_scoring(config, mesh.devices.flat[0].platform)


def load_model(
    workdir: Workdir, config: Config, devices: Sequence[jax.Device] | None = None
) -> Model:
    """Restores the newest checkpoint of a workdir as a compiled detector.

    Args:
      workdir: of the training.
      config: resolved.
      devices: None: all of all processes.

    Raises:
      UserError: no checkpoint.
    """
    mesh = make_mesh(MeshConfig(), devices)  # that of the training is the training's
    memory.require_for_images(config, mesh)
    restored = restore(workdir, config, mesh)
    config = in_one_precision(workdir, config, mesh)
    if config.train.latent_stats == "whiten" and restored.coordinates is None:
        raise UserError(
            f"train.latent_stats=whiten: {workdir.path} was not trained in such coordinates"
        )
    network = restored.ema_params if config.inversion.use_ema else restored.params
    # The other ones are not needed, and these not as long as the model.
    restored = restored._replace(params=None, ema_params=None)
    return Model(
        config,
        restored.latent_shape,
        network,
        restored.latent_stats,
        partial(_matching_encoder, config, workdir, restored),
        mesh,
        restored.step,
        restored.coordinates,
        restored.made_of,
    )


def with_options(model: Model, workdir: Workdir, config: Config) -> Model:
    """A loaded model under other options of evaluation, in the precision of its workdir."""
    return model.with_config(in_one_precision(workdir, config, model.mesh))


def _matching_encoder(config: Config, workdir: Workdir, restored: Restored) -> Encoder:
    """The config's encoder, if its latents are the ones that the checkpoint was made for."""
    options = kept_weights.options(config.encoder, workdir.encoder)
    whole = build_encoder(
        options, config.data.image_size, config.tiling, masks.read_region(config.data)
    )
    encoder = components.load(config, workdir, whole)
    if restored.encoder not in (None, encoder.fingerprint):
        raise UserError(
            f"encoder.weights={config.encoder.weights}: other weights, or another data.region, "
            f"than the ones that {workdir.path} was trained with"
        )
    if encoder.latent_shape != restored.latent_shape:
        raise UserError(
            f"encoder.name={config.encoder.name}: gives latents {encoder.latent_shape}, and "
            f"{workdir.path} is for {restored.latent_shape}; score latents, or convert it again "
            "with --set encoder.name=... of the encoder that it was trained with"
        )
    return encoder
