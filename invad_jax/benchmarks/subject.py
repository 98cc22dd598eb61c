"""The detector that is measured: of a workdir, or of a config, with parameters of noise."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invad_jax.config import Config, MeshConfig
from invad_jax.denoisers import fixed_steps
from invad_jax.detector import Detector, DetectorVariables, LatentStats
from invad_jax.encoders import build_encoder, components, with_components
from invad_jax.inference.assembly import build_detector, for_scoring, init_params
from invad_jax.inference.in_parts import in_parts, rounds_over
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
    """One of a config's sizes, compared with N(0, I), as nothing was learnt of normal images.

    Args:
      config: of the sizes.
      mesh: devices; all there are.

    Raises:
      UserError: sizes that do not fit.
    """
    mesh = mesh or make_mesh(MeshConfig())
    config = dataclasses.replace(
        for_scoring(config, mesh.devices.flat[0].platform),
        encoder=dataclasses.replace(config.encoder, weights="random"),
        scoring=dataclasses.replace(config.scoring, prior="standard_normal"),
    )
    encoder = build_encoder(config.encoder, config.data.image_size, config.tiling)
    if channels := config.encoder.channels:
        encoder = with_components(encoder, components.of_noise(encoder.latent_shape[-1], channels))
    encode = in_parts(encoder.apply, mesh)
    detector = build_detector(config, encoder.latent_shape, encode, rounds_over(mesh))
    timesteps = paradigm_of(config).timesteps
    network = _noise(jax.jit(partial(init_params, config, encoder.latent_shape))(jax.random.key(0)))
    tables = jax.jit(partial(fixed_steps.tables, config.denoiser, timesteps))(network)
    C = encoder.latent_shape[-1]
    network = fixed_steps.narrow(config.denoiser, fixed_steps.fold(network, tables))
    stats = LatentStats(jnp.zeros(C), jnp.ones(C))
    variables = DetectorVariables(encoder.variables, network, stats)
    on_mesh = put(variables, replicated(mesh))
    return Subject(config, detector, on_mesh, encoder.latent_shape, mesh, timesteps)


def _noise(params: Any) -> Any:
    """No zeros, as fresh gates are: a network that says nothing could be left out by a compiler."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: p + 0.02 * rng.standard_normal(p.shape, np.float32), params)
