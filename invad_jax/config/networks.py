"""Options of the networks: the encoder, the denoiser, the VAE.

Read next: `encoders/__init__.py`, `denoisers/__init__.py`, what they build.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from invad_jax.config.fields import free, free_when_trained, where

_DIT = "denoiser.name=dit|dit_diffusers"
_BLOCKS = "denoiser.name=dit|mlp|dit_diffusers"
_UNET = "denoiser.name=unet"
_UNETS = f"{_UNET}|unet_deco_diff|unet_mad_ad|unet_diad|unet_transfusion"


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen network that turns an image into a latent. In `train_vae`, which makes such a
    network, the one whose features the perceptual term compares."""

    name: str = "efficientnet_lite0"
    """One of `encoders.ENCODERS`."""
    weights: str = free("auto")
    """`auto`: the encoder's published weights (see `encoders/sources.py`), which `pixels` does not
    have; `random`: untrained, for tests; else the path of a file, or of a VAE's workdir. What was
    loaded is compared by content, so the path may change."""
    stages: tuple[int, ...] = ()
    """Indices of the blocks whose outputs are stacked; empty takes the encoder's own default."""
    stage_resize: Literal["bilinear", "area"] = "bilinear"
    """How the stages are brought to one grid: `bilinear` without antialiasing as published, or
    `area`, the mean of all the positions a cell covers."""
    pool: int = 1
    """Side of the mean pooling applied to the stacked grid; 2 makes 8 x 8 out of 16 x 16."""
    groups: int = 0
    """Runs of consecutive stages, as many in each, whose mean takes their place; 0 keeps every
    stage. 8 layers of a vision transformer in 2 groups give twice its width."""
    channels: int = 0
    """Principal components of the features of the normal images, learnt before training, that
    latents are made of; 0 keeps the channels as they are."""


@dataclass(frozen=True)
class TilingConfig:
    """Large images through the encoder in parts (`encoders/tiles.py`)."""

    size: int = 0
    """Side in pixels of the overlapping tiles that the image of `data.image_size` is cut into; the
    latents of all of them become one grid. 0: the encoder sees the image whole."""
    overlap: int = where("tiling.size!=0", 0)
    """Pixels that neighbouring tiles share, in which their latents are blended."""


Variant = Literal[
    "pad_at_end",
    "resample_in_blocks",
    "time_scale",
    "shifted_frequencies",
    "no_middle_attention",
    "centred_input",
]


@dataclass(frozen=True)
class DenoiserConfig:
    """The network that predicts the noise; the default sizes are the paper's."""

    name: Literal[
        "dit",
        "unet",
        "mlp",
        "dit_diffusers",
        "unet_deco_diff",
        "unet_mad_ad",
        "unet_diad",
        "unet_transfusion",
    ] = "dit"
    """`dit_diffusers` is the DiT of that library, with a timestep embedding in each block; the last
    four are the published networks of other detectors (`docs/rivals.md`)."""
    width: int = 2048
    depth: int = where(_BLOCKS, 16)
    """Blocks."""
    num_heads: int = where(f"{_DIT}|unet_mad_ad|unet_diad", 8)
    """Attention heads."""
    patch_size: int = where(_DIT, 1)
    """Side in latent positions of one token."""
    num_res_blocks: int = where(_UNETS, 2)
    """Residual blocks a level."""
    channel_mult: tuple[int, ...] = where(_UNETS, (1, 2, 3, 4))
    """Width multipliers, one a level."""
    attention_downsamplings: tuple[int, ...] = where(_UNETS, (2, 4, 8))
    """Downsampling factors at which attention is applied."""
    head_channels: int = where(f"{_UNET}|unet_deco_diff", 64)
    """Channels of one attention head, 0 for one head of all channels."""
    norm_groups: int = where(_UNET, 32)
    """Groups of the normalisations, where that divides the channels."""
    norm_eps: float = where("denoiser.name=unet|dit_diffusers", 1e-5)
    """Epsilon of the normalisations (unet), or of the second one of a block (dit_diffusers)."""
    context: tuple[int, ...] = where("denoiser.name=unet_deco_diff|unet_diad", ())
    """Number and width of the vectors that transformers attend to: one a class (unet_deco_diff), or
    the tokens of a text (unet_diad; 0 if each call brings its own)."""
    variants: tuple[Variant, ...] = where(_UNET, ())
    """What the U-Nets of others do in another way; `convert` finds it. The grid is halved by a
    convolution padded at the ends only (`pad_at_end`, Ho et al. 2020), or within residual blocks,
    as it is doubled then too (`resample_in_blocks`, Dhariwal & Nichol 2021); the timestep also
    scales, after the normalisation (`time_scale`, Nichol & Dhariwal 2021); its lowest frequency is
    1 / 10000 (`shifted_frequencies`, Ho et al.); there is no attention between the way down and
    the way up (`no_middle_attention`); an input of 0..1 becomes -1..1 (`centred_input`)."""
    dtype: Literal["auto", "float32", "bfloat16"] = free_when_trained("auto")
    """Type of the activations; normalisations and what is trained stay float32. `auto`: float32 in
    training and on CPUs, bfloat16 where an accelerator scores."""
    remat: bool = free(False)
    """Recompute each block's activations in the backward pass, to save memory."""

    @property
    def activations(self) -> str:
        """The type of a network that is built: where nobody has decided, float32."""
        return "float32" if self.dtype == "auto" else self.dtype


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of an AutoencoderKL; the defaults are those of Stable Diffusion's."""

    width: int = 128
    """Channels of the first convolution."""
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each level over `width`; the grid is halved between levels."""
    num_res_blocks: int = 2
    """Residual blocks per level of the encoder; the decoder has one more."""
    encoder_attention: tuple[int, ...] = ()
    """Downsampling factors (1, 2, 4, ...) where each block of the encoder is followed by attention;
    the middle always has it."""
    decoder_attention: tuple[int, ...] = ()
    """The same for the decoder. KL-16 has attention at 16 in its encoder only."""
    latent_channels: int = 4

    @property
    def downsampling(self) -> int:
        """Image side over latent side."""
        return 2 ** (len(self.multipliers) - 1)
