"""U-Nets of guided diffusion (Dhariwal & Nichol 2021), one `.pt` file each.

The published InvAD code took its U-Net from there, so that the tensors differ by the prefix `net.`
alone. Two parts are beyond our network: of a learned variance (learn_sigma) only the eps half is
taken, which does not depend on the other; of the classes one becomes part of the network. What this
U-Net lacks is refused by name.
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
from invad_jax.converters import Converted, chosen_class, with_class
from invad_jax.converters.published import denoiser_config_from_published, params_from_published
from invad_jax.errors import UserError
from invad_jax.io.tensors import read_tensors


def read_file(
    path: Path, hints: Mapping[str, int], latent_size: int | None, class_label: int | None
) -> Converted:
    """Reads and checks a checkpoint.

    Args:
      path: of a state dict.
      hints: `head_channels`, which no tensor tells.
      latent_size: h = w of what the network is trained on.
      class_label: which class a class-conditional network shall take every image for.

    Raises:
      UserError: missing, damaged, malicious, or another network than this U-Net.
    """
    if latent_size is None:
        raise UserError("give --latent-size: side of the images or latents that it was trained on")
    if "head_channels" not in hints:
        raise UserError("give --head-channels: channels of an attention head, 64 in most of them")
    tensors = {key.removeprefix("module."): value for key, value in read_tensors(path).items()}
    _refuse_variants(tensors, path)
    tensors = _of_one_class(_eps_half(tensors), class_label, path)
    tensors = {f"net.{key}": value for key, value in tensors.items()}
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
    blocks = {key.split(".")[1] for key in tensors if key.startswith("input_blocks.")}
    gaps = blocks != set(map(str, range(len(blocks))))
    embedded, *inputs = np.shape(tensors.get("time_embed.0.weight", ())) or (0,)
    found = {
        # Then the layers that resample have no tensors.
        "conv_resample=False": gaps and not any(key.endswith(".0.op.weight") for key in tensors),
        "a first channel_mult other than 1": [embedded] == [4 * n for n in inputs]
        and inputs != [len(tensors["input_blocks.0.0.weight"])],
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


def _of_one_class(
    tensors: Mapping[str, np.ndarray], class_label: int | None, path: Path
) -> dict[str, np.ndarray]:
    """With the embedding of one class added where the network would add it."""
    rest, table = dict(tensors), tensors.get("label_emb.weight")
    if table is None:
        if class_label is not None:
            raise UserError(f"--class-label {class_label}: {path} has no classes")
        return rest
    del rest["label_emb.weight"]
    bias = rest.get("time_embed.2.bias", np.zeros(0))
    if table.ndim != 2 or table.shape[1:] != bias.shape:
        raise UserError(
            f"{path}: label_emb.weight is {table.shape}, and time_embed.2.bias {bias.shape}"
        )
    label = chosen_class(f"{path}: class_cond, {len(table)} classes", len(table), class_label)
    return rest | {"time_embed.2.bias": with_class(bias, table, label)}
