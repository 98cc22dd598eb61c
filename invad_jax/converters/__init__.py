"""Models of other code bases as workdirs of this one; a module a code base.

Read `invad_pytorch` first: the published code, both ways.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from invad_jax.config import Config, DenoiserConfig
from invad_jax.config import ranges as config_ranges
from invad_jax.errors import UserError

FILES = {"latest": "model_latest.pth", "ema": "model_ema_latest.pth", "best": "model_best.pth"}
SETTINGS = "config.yaml"
"""What a folder of the published code holds."""

DETECTORS = ("deco-diff", "mad-ad", "transfusion", "diad")
"""Other diffusion detectors, each a file (`rivals.py`)."""

MAX_SIDE = 4096
"""Of a latent grid."""
MAX_POSITIONS = 2**28
"""Numbers in the position embedding of a DiT, which its file need not hold: 1 GB."""


@dataclass(frozen=True)
class Converted:
    """A foreign model, as a workdir will hold it."""

    config: Config
    latent_shape: tuple[int, int, int]
    params: dict[str, Any]
    ema_params: dict[str, Any]
    """Equal to `params` where the other side kept no average."""
    kept_tensors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """`params` and `ema_params`: what our network does not run, for the way back."""
    kept_text: str = ""
    """The settings file that came along, for the way back."""


@dataclass(frozen=True)
class ConvertedVAE:
    """A foreign first stage: what `encoder.name=vae` reads."""

    state: dict[str, np.ndarray]
    """Parameters under the names of latent diffusion, and `scale`."""
    summary: dict[str, Any]
    """Sizes and scale, as plain values."""


def check_sizes(source: object, cfg: DenoiserConfig) -> None:
    """Raises UserError for sizes that no network has: a foreign file may say anything.

    To be asked before the sizes are used.

    Args:
      source: the file, for messages.
      cfg: as it was read.
    """
    try:
        config_ranges.validate(Config(denoiser=cfg))
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def check_latents(source: object, cfg: DenoiserConfig, latent_shape: tuple[int, ...]) -> None:
    """Raises UserError for latents, (h, w, C), that are too large or empty."""
    side = max(latent_shape[:2])
    if min(latent_shape) < 1 or side > MAX_SIDE:
        raise UserError(
            f"{source}: latents of {' x '.join(map(str, latent_shape))}: expected sides of 1 to "
            f"{MAX_SIDE} and at least one channel"
        )
    if cfg.name.startswith("dit") and (side // cfg.patch_size) ** 2 * cfg.width > MAX_POSITIONS:
        raise UserError(f"{source}: a DiT of width {cfg.width} on {side} x {side} is too large")


def chosen_class(table: str, classes: int, class_label: int | None) -> int:
    """The class whose embedding becomes part of a class-conditional network.

    Args:
      table: where the model tells its classes, for messages.
      classes: how many there are.
      class_label: what the user gave.

    Raises:
      UserError: nothing, or none of the classes.
    """
    if class_label is None or not 0 <= class_label < classes:
        raise UserError(
            f"{table}: give --class-label 0..{classes - 1}, the class that it shall take every "
            "image for"
        )
    return class_label


def with_class(bias: np.ndarray, table: np.ndarray, class_label: int) -> np.ndarray:
    """A timestep embedding's last bias (E,), to which a class's row of the table (classes, E) is
    added, as the network would add it to the embedding."""
    return bias.astype(np.float32) + table[class_label].astype(np.float32)
