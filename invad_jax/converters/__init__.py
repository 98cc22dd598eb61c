"""Models of other code bases as workdirs of this one; a module a code base.

Read `invad_pytorch` first: the published code, both ways.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from invad_jax.config import Config


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
