"""`AutoencoderKL` of diffusers: the file that `encoder.name=vae` reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax.config import VAEConfig
from invad_jax.converters import ConvertedVAE
from invad_jax.converters.diffusers_options import Options
from invad_jax.encoders.vae import SCALE, vae_params_from_state, vae_state_from_params
from invad_jax.encoders.vae_names import vae_config_from_state
from invad_jax.errors import UserError

NAMES = ("AutoencoderKL",)
SAME = {
    "act_fn": "silu",
    "in_channels": 3,
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
}
"""Options that have one value here."""


def converted(tensors: dict[str, np.ndarray], options: Options, source: Path) -> ConvertedVAE:
    """Checks a VAE against its options.

    Raises:
      UserError: another architecture, or tensors that do not fit.
    """
    options.require(SAME)
    scale = options.real("scaling_factor", 0.18215)
    tensors = _with_identities(tensors, options)
    try:
        vae = vae_config_from_state(tensors)
        params = vae_params_from_state(tensors, vae)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    _check_sizes(vae, options)
    _subtract_from_latents(params, options)
    state = vae_state_from_params(params) | {SCALE: np.array(scale, np.float32)}
    summary = {"schema": 1, "vae": dataclasses.asdict(vae), "scale": scale}
    return ConvertedVAE(state, summary)


def _with_identities(tensors: dict[str, np.ndarray], options: Options) -> dict[str, np.ndarray]:
    """Newer VAEs have no 1 x 1 convolutions around the latent: they are the identity."""
    channels = options.number("latent_channels", 4)
    added = {}
    for name, features in (("quant_conv", 2 * channels), ("post_quant_conv", channels)):
        if not options.choice(f"use_{name}", {True: True, False: False}, True):
            if f"{name}.weight" in tensors:
                raise options.wrong(f"use_{name}", f"{name}.weight is unexpected")
            added[f"{name}.weight"] = np.eye(features, dtype=np.float32)[:, :, None, None]
            added[f"{name}.bias"] = np.zeros(features, np.float32)
    return tensors | added


def _check_sizes(vae: VAEConfig, options: Options) -> None:
    widths = [vae.width * multiplier for multiplier in vae.multipliers]
    for option, found in (
        ("block_out_channels", widths),
        ("layers_per_block", vae.num_res_blocks),
        ("latent_channels", vae.latent_channels),
    ):
        if options.values.get(option, found) != found:
            raise options.wrong(option, f"its tensors make {found}")


def _subtract_from_latents(params: Any, options: Options) -> None:
    """Folds `shift_factor`, which the library subtracts from the mean, into the convolutions."""
    shift = options.values.get("shift_factor") or 0.0
    if type(shift) not in (int, float) or not np.isfinite(shift):
        raise options.wrong("shift_factor", "expected a number")
    if shift:
        quant, post = params["quant_conv"], params["post_quant_conv"]
        channels = len(post["bias"])
        quant["bias"][:channels] -= np.float32(shift)
        post["bias"] += np.float32(shift) * post["kernel"].sum(axis=0)
