"""Names of an AutoencoderKL's tensors in latent diffusion and in diffusers, and what they tell.

Read next: `vae.py`, the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from invad_jax.config import Config, VAEConfig, ranges
from invad_jax.encoders.torch_names import dotted
from invad_jax.errors import UserError


def vae_config_from_state(state: dict[str, np.ndarray]) -> VAEConfig:
    """Every size of an AutoencoderKL, read from its tensors.

    Args:
      state: name -> array with the names of latent diffusion (any prefix) or of diffusers.

    Raises:
      UserError: no AutoencoderKL, or one of another kind.
    """
    tensors = ldm_tensors(state)
    try:
        width = len(tensors["encoder.conv_in.bias"])
        blocks = _indices(tensors, r"encoder\.down\.(\d+)\.block\.(\d+)\.")
        channels = [
            len(tensors[f"encoder.down.{level}.block.0.conv1.bias"])
            for level in range(1 + max(level for level, _ in blocks))
        ]
        if any(c % width for c in channels):
            raise UserError(f"VAE: channels {channels} are not multiples of the first, {width}")
        vae = VAEConfig(
            width=width,
            multipliers=tuple(c // width for c in channels),
            num_res_blocks=1 + max(block for _, block in blocks),
            encoder_attention=_attention_levels(tensors, r"encoder\.down"),
            decoder_attention=_attention_levels(tensors, r"decoder\.up"),
            latent_channels=len(tensors["post_quant_conv.bias"]),
        )
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:  # a shape, or empty
        raise UserError(f"VAE: not a whole AutoencoderKL ({error})") from None
    ranges.validate(Config(vae=vae))
    return vae


def ldm_tensors(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The VAE's own tensors under their names in latent diffusion."""
    first = "encoder.conv_in.weight"
    prefix = next((key.removesuffix(first) for key in state if key.endswith(first)), None)
    if prefix is None:
        raise UserError(f"VAE: no tensor is named {first}, so this is no AutoencoderKL")
    parts = tuple(prefix + p for p in ("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
    tensors = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(parts)}
    num_levels = len(_indices(tensors, r"encoder\.down_blocks\.(\d+)\."))
    if num_levels == 0:
        return tensors
    return {_from_diffusers(name, num_levels): tensor for name, tensor in tensors.items()}


def _attention_levels(tensors: Iterable[str], part: str) -> tuple[int, ...]:
    """Downsampling factors whose level has attention."""
    levels = _indices(tensors, part + r"\.(\d+)\.attn\.")
    return tuple(sorted(2**level for (level,) in levels))


def _indices(tensors: Iterable[str], pattern: str) -> set[tuple[int, ...]]:
    """The numbers that the groups of `pattern` match at the start of the names."""
    matches = (re.match(pattern, name) for name in tensors)
    return {tuple(map(int, match.groups())) for match in matches if match}


_FROM_DIFFUSERS = (
    ("down_blocks.", "down."),
    ("up_blocks.", "up."),
    (".resnets.", ".block."),
    (".attentions.", ".attn."),
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
    ("mid_block.block.0.", "mid.block_1."),
    ("mid_block.block.1.", "mid.block_2."),
    ("mid_block.attn.0.", "mid.attn_1."),
    (".group_norm.", ".norm."),
    (".query.", ".q."),
    (".to_q.", ".q."),
    (".key.", ".k."),
    (".to_k.", ".k."),
    (".value.", ".v."),
    (".to_v.", ".v."),
    (".proj_attn.", ".proj_out."),
    (".to_out.0.", ".proj_out."),
    (".conv_shortcut.", ".nin_shortcut."),
    (".conv_norm_out.", ".norm_out."),
)
"""Replacements, in this order, from the names of diffusers to those of latent diffusion."""


def _from_diffusers(name: str, num_levels: int) -> str:
    for theirs, ldm in _FROM_DIFFUSERS:
        name = name.replace(theirs, ldm)
    # diffusers counts the decoder's levels from the latent, latent diffusion from the image.
    return re.sub(r"\.up\.(\d+)", lambda match: f".up.{num_levels - 1 - int(match[1])}", name)


def ldm_name(path: str) -> str:
    """`encoder/down_0/block_1/conv1/kernel` -> `encoder.down.0.block.1.conv1.weight`."""
    name = re.sub(r"\.(down|up)sample_(\d+)", r".\1.\2.\1sample", dotted(path))
    return re.sub(r"\.(down|up)_(\d+)\.(block|attn)_(\d+)", r".\1.\2.\3.\4", name)
