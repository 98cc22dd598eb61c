"""The detector that is measured: of a workdir, or of a config, with parameters of noise."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from invad_jax.config import Config, MeshConfig
from invad_jax.data import masks
from invad_jax.detector import Detector, DetectorVariables
from invad_jax.encoders import build_encoder, components, with_components
from invad_jax.inference import unlearnt
from invad_jax.inference.assembly import init_params
from invad_jax.inference.model import Model
from invad_jax.paradigms import paradigm_of
from invad_jax.runtime.sharding import make_mesh, put, replicated


class Subject(NamedTuple):
    """What is measured."""

    config: Config
    detector: Detector
    variables: DetectorVariables
    """On every device of the mesh."""
    latent_shape: tuple[int, int, int]
    mesh: Mesh
    timesteps: tuple[int, ...]


def of_model(model: Model) -> Subject:
    """A trained one."""
    return Subject(
        model.config,
        model.detector,
        model.variables,
        model.latent_shape,
        model.mesh,
        model.paradigm.timesteps,
    )


def of_config(config: Config, mesh: Mesh | None = None) -> Subject:
    """One of a config's sizes that has learnt nothing, see `inference/unlearnt.py`.

    Args:
      config: of the sizes.
      mesh: devices; all there are.

    Raises:
      UserError: sizes that do not fit.
    """
    mesh = mesh or make_mesh(MeshConfig())
    of_noise = dataclasses.replace(config.encoder, weights="random")
    config = unlearnt.config_of(dataclasses.replace(config, encoder=of_noise), mesh)
    encoder = build_encoder(
        config.encoder, config.data.image_size, config.tiling, masks.read_region(config.data)
    )
    if channels := config.encoder.channels:
        encoder = with_components(encoder, components.of_noise(encoder.latent_shape[-1], channels))
    shape = encoder.latent_shape
    detector = unlearnt.detector_of(config, encoder, mesh)
    network = _noise(jax.jit(partial(init_params, config, shape))(jax.random.key(0)))
    variables = unlearnt.variables_of(config, encoder.variables, network, shape[-1])
    timesteps = paradigm_of(config).timesteps
    return Subject(config, detector, put(variables, replicated(mesh)), shape, mesh, timesteps)


def _noise(params: Any) -> Any:
    """No zeros, as fresh gates are: a network that says nothing could be left out by a compiler."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: p + 0.02 * rng.standard_normal(p.shape, np.float32), params)
