"""A detector of a config's sizes before anything is learnt: what `plan` and `benchmark` look at.

What normal images would teach is not known of it, so it is compared with N(0, I).
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from invad_jax.config import Config
from invad_jax.denoisers import fixed_steps
from invad_jax.detector import Detector, DetectorVariables, LatentStats
from invad_jax.encoders import Encoder
from invad_jax.inference.assembly import build_detector, for_scoring
from invad_jax.inference.in_parts import in_parts, rounds_over
from invad_jax.paradigms import paradigm_of


def config_of(config: Config, mesh: Mesh) -> Config:
    """The config as the devices of a mesh score, under N(0, I)."""
    config = for_scoring(config, mesh.devices.flat[0].platform)
    scoring = dataclasses.replace(config.scoring, prior="standard_normal")
    return dataclasses.replace(config, scoring=scoring)


def detector_of(config: Config, encoder: Encoder, mesh: Mesh) -> Detector:
    """The pure functions, laid out for a mesh; `config` is of `config_of`."""
    encode = in_parts(encoder.apply, mesh)
    return build_detector(config, encoder.latent_shape, encode, rounds_over(mesh))


def variables_of(config: Config, encoder: Any, params: Any, C: int) -> DetectorVariables:
    """Every array of it; can be traced.

    Args:
      config: of `config_of`.
      encoder: variables of the encoder.
      params: of the network, for any timestep.
      C: channels of a latent.
    """
    tables = partial(fixed_steps.tables, config.denoiser, paradigm_of(config).timesteps)
    folded = fixed_steps.fold(params, jax.jit(tables)(params))
    network = fixed_steps.narrow(config.denoiser, folded)
    return DetectorVariables(encoder, network, LatentStats(jnp.zeros(C), jnp.ones(C)))
