"""The scheduler configs of diffusers: betas, and what the network predicts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from invad_jax.config import Config, DiffusionConfig, InversionConfig
from invad_jax.config import ranges as config_ranges
from invad_jax.converters.diffusers_options import Options
from invad_jax.diffusion.schedule import with_zero_terminal_snr
from invad_jax.errors import UserError
from invad_jax.paradigms.levels import alpha_bar_of

NAME = "scheduler_config.json"
SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "sample"}


def read_diffusion(folder: Path) -> DiffusionConfig:
    """What a model's own scheduler says; the library's defaults where it has none.

    Args:
      folder: of the model; the scheduler's config lies in it, in its `scheduler/`, or in a
        `scheduler/` beside it.

    Raises:
      UserError: no process with betas, or one that is not known here.
    """
    places = (folder / NAME, folder / "scheduler" / NAME, folder.parent / "scheduler" / NAME)
    path = next((place for place in places if place.exists()), None)
    if path is None:
        return DiffusionConfig()
    options = Options(path)
    said = options.values
    if said.get("_class_name") and not {"beta_schedule", "trained_betas"} & said.keys():
        raise options.wrong("_class_name", "expected a process with betas")
    options.require({"timestep_type": "discrete"})
    diffusion = DiffusionConfig(
        num_timesteps=options.number("num_train_timesteps", 1000, least=2),
        schedule=options.choice("beta_schedule", SCHEDULES, "linear"),
        betas=(options.real("beta_start", 1e-4), options.real("beta_end", 0.02)),
        prediction=options.choice("prediction_type", PREDICTIONS, "epsilon"),
    )
    if said.get("trained_betas") is not None:
        betas = tuple(options.items("trained_betas", float))
        diffusion = dataclasses.replace(diffusion, schedule="given", betas=betas)
    rescaled = options.choice("rescale_betas_zero_snr", {True: True, False: False}, False)
    try:
        config_ranges.validate(Config(diffusion=diffusion, inversion=InversionConfig(num_steps=1)))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return _rescaled(diffusion) if rescaled else diffusion


def _rescaled(diffusion: DiffusionConfig) -> DiffusionConfig:
    """The same with a last level that is all noise, beta by beta."""
    alpha_bar = with_zero_terminal_snr(alpha_bar_of(Config(diffusion=diffusion)))
    betas = 1.0 - alpha_bar / np.append(1.0, alpha_bar[:-1])
    return dataclasses.replace(diffusion, schedule="given", betas=tuple(betas.tolist()))
