"""U-Nets of guided diffusion (Dhariwal & Nichol 2021), one `.pt` file each.

The published InvAD code took its U-Net from there, so that the tensors differ by the prefix `net.`
alone. Where the file predicts a variance too (learn_sigma), that half of the output is left out:
the eps half does not depend on it. What this U-Net lacks is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from invad_jax.config import (
    Config,
    DataConfig,
    DenoiserConfig,
    DiffusionConfig,
    InversionConfig,
    ScoringConfig,
    TrainConfig,
)
from invad_jax.converters import Converted
from invad_jax.denoisers.published import denoiser_config_from_published, params_from_published
from invad_jax.errors import UserError
from invad_jax.tensor_files import read_tensors


def read_file(path: Path, hints: Mapping[str, int], latent_size: int | None) -> Converted:
    """Reads and checks a checkpoint.

    Args:
      path: of a state dict.
      hints: `head_channels`, which no tensor tells.
      latent_size: h = w of what the network is trained on.

    Raises:
      UserError: missing, damaged, malicious, or another network than this U-Net.
    """
    if latent_size is None:
        raise UserError("give --latent-size: side of the images or latents that it was trained on")
    tensors = {key.removeprefix("module."): value for key, value in read_tensors(path).items()}
    _refuse_variants(tensors, path)
    tensors = {f"net.{key}": value for key, value in _eps_half(tensors).items()}
    cfg = denoiser_config_from_published(tensors, hints, str(path))
    shape = (latent_size, latent_size, tensors["net.input_blocks.0.0.weight"].shape[1])
    params = params_from_published(tensors, cfg, shape, str(path))
    return Converted(plug_and_play_config(cfg, DiffusionConfig()), shape, params, params)


def plug_and_play_config(denoiser: DenoiserConfig, diffusion: DiffusionConfig) -> Config:
    """Another method's own diffusion model, evaluated by inversion: its latents as they are."""
    return Config(
        data=DataConfig(holdout_fraction=0.0),  # all normals were trained on
        denoiser=denoiser,
        diffusion=diffusion,
        train=TrainConfig(latent_stats="none"),
        inversion=InversionConfig(use_ema=False),
        scoring=ScoringConfig(prior="standard_normal"),
    )


def _refuse_variants(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Raises UserError for the options of guided diffusion that this U-Net lacks."""
    if "input_blocks.0.0.weight" not in tensors:
        raise UserError(f"{path}: no U-Net of guided diffusion (no input_blocks.0.0.weight)")
    if tensors["input_blocks.0.0.weight"].ndim != 4:
        raise UserError(f"{path}: input_blocks.0.0.weight is no 2-D convolution")
    first_block = "input_blocks.1.0"
    time = np.shape(tensors.get(f"{first_block}.emb_layers.1.bias", ()))
    convolution = np.shape(tensors.get(f"{first_block}.in_layers.2.bias", ()))
    found = {
        "class_cond": any(key.startswith("label_emb.") for key in tensors),
        "use_scale_shift_norm": time == tuple(2 * n for n in convolution) != (),
        "resblock_updown, or conv_resample=False": "input_blocks.2.0.in_layers.2.weight" in tensors
        and not any(key.endswith(".0.op.weight") for key in tensors),
    }
    for option in (name for name, present in found.items() if present):
        raise UserError(f"{path}: was made with {option}, which this U-Net does not have")


def _eps_half(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the output channels of a learned variance."""
    channels = tensors["input_blocks.0.0.weight"].shape[1]
    last = ("out.2.weight", "out.2.bias")
    learned = all(key in tensors and tensors[key].shape[:1] == (2 * channels,) for key in last)
    return {
        key: value[:channels] if learned and key in last else value
        for key, value in tensors.items()
    }
