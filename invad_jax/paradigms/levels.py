"""The noise levels of a config."""

from __future__ import annotations

import numpy as np

from invad_jax.config import Config
from invad_jax.diffusion.schedule import Plan, alpha_bar_schedule, make_plan, spaced_timesteps


def alpha_bar_of(config: Config) -> np.ndarray:
    """The noise schedule, (T,) float64."""
    diffusion = config.diffusion
    return alpha_bar_schedule(diffusion.schedule, diffusion.num_timesteps, diffusion.betas)


def timesteps_of(config: Config) -> np.ndarray:
    """The timesteps that the network is asked at, (S,) rising integers."""
    inversion = config.inversion
    return spaced_timesteps(inversion.spacing, inversion.num_steps, config.diffusion.num_timesteps)


def rising_plan(config: Config) -> Plan:
    """The levels of the inversion."""
    return make_plan(alpha_bar_of(config), timesteps_of(config))
