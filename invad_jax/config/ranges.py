"""The ranges of the options, and what they must have in common."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from invad_jax.config import Config, DenoiserConfig, DiffusionConfig, option, option_names
from invad_jax.config.effect import is_read, refuse_unread
from invad_jax.errors import UserError
from invad_jax.io.paths import require_known


class Range(NamedTuple):
    """Of a number, or of each number of a list."""

    least: float
    most: float
    """No experiment needs more; beyond it something overflows, or never ends."""
    above: bool = False
    """`least` itself is out of the range."""


_SHARE = Range(0, 1)
_SHARE_ABOVE = Range(0, 1, above=True)
_COUNT = Range(1, 10**9)
_FACTOR = Range(1, 2**20)
_LARGE = 1e30
"""Of what has no natural bound; a float32, and so are its products with numbers of any use."""

RANGES = {
    "data.image_size": Range(16, 2**14),
    "data.holdout_fraction": Range(0, 0.9),
    "data.num_workers": Range(0, 1024),
    "data.value_range": Range(-_LARGE, _LARGE),
    "data.max_pixels": Range(1, 2**34),
    "encoder.stages": Range(0, 10_000),
    "encoder.pool": Range(1, 4096),
    "encoder.groups": Range(0, 1000),
    "encoder.channels": Range(0, 2**16),
    "tiling.size": Range(0, 2**14),
    "tiling.overlap": Range(0, 2**14),
    "denoiser.width": Range(1, 2**16),
    "denoiser.depth": Range(1, 1024),
    "denoiser.num_heads": Range(1, 4096),
    "denoiser.norm_eps": Range(0, 1),
    "denoiser.patch_size": Range(1, 256),
    "denoiser.num_res_blocks": Range(1, 64),
    "denoiser.channel_mult": Range(1, 64),
    "denoiser.attention_downsamplings": _FACTOR,
    "denoiser.context": Range(0, 2**20),
    "denoiser.head_channels": Range(0, 2**16),
    "denoiser.norm_groups": Range(1, 2**16),
    "diffusion.num_timesteps": Range(2, 100_000),
    "diffusion.betas": _SHARE_ABOVE,
    "vae.width": Range(1, 2**16),
    "vae.multipliers": Range(1, 64),
    "vae.num_res_blocks": Range(1, 64),
    "vae.encoder_attention": _FACTOR,
    "vae.decoder_attention": _FACTOR,
    "vae.latent_channels": Range(1, 2**16),
    "vae_loss.kl_weight": Range(0, 1e6),
    "vae_loss.perceptual_weight": Range(0, 1e6),
    "train.num_steps": Range(0, 10**9),
    "train.batch_size": Range(1, 2**20),
    "train.grad_accumulation": Range(1, 2**20),
    "train.learning_rate": Range(0, _LARGE, above=True),
    "train.warmup_steps": Range(0, 10**9),
    "train.ema_decay": _SHARE,
    "train.seed": Range(0, 2**32 - 1),
    "train.checkpoint_every": _COUNT,
    "whitening.identity": Range(0, 1e6),
    "whitening.radius": Range(0, 4096),
    "mesh.fsdp": Range(-1, 10**6),
    "mesh.tensor": Range(1, 10**6),
    "inversion.num_steps": Range(0, 100_000),
    "inversion.noise_ratio": _SHARE_ABOVE,
    "calibration.false_positive_rate": _SHARE,
    "eval.batch_size": Range(1, 2**16),
}
"""Of every option that is a number, or a list of numbers."""

_MOST_LEVELS = 15
"""Of a U-Net or a VAE: the largest image is then one position."""
_MOST_EXPONENT = 80.0
"""exp(-80) is about the smallest number that float32 holds in full."""
_MOST_BYTES = 4096
"""Of a path, and so of any text."""
_PATHS = ("data.root", "data.region", "encoder.weights", "train.teacher")


def validate(config: Config) -> None:
    """Checks ranges.

    Raises:
      UserError: the first option that is out of its range.
    """
    for name in option_names():
        _check_option(name, option(config, name))
    _check_steps(config)
    if config.inversion.num_steps > config.diffusion.num_timesteps:
        raise UserError(
            f"inversion.num_steps={config.inversion.num_steps}: must be at most "
            f"diffusion.num_timesteps={config.diffusion.num_timesteps}"
        )
    label = config.inversion.label
    if label not in ("none", "inferred") and not (label.isascii() and label.isdigit()):
        raise UserError(f"inversion.label={label}: expected none, inferred or a number")
    _check_betas(config.diffusion)
    _check_whitening(config)
    _check_value_range(config.data.value_range)
    _check_tiling(config)
    refuse_unread(config, ("data.aspect", "data.region"))
    _check_levels("vae.multipliers", config.vae.multipliers)
    for name in ("vae.encoder_attention", "vae.decoder_attention"):
        _check_factors(name, option(config, name), config.vae.multipliers)
    if config.denoiser.name.startswith("unet"):
        _check_unet(config.denoiser)
    if not config.data.categories:
        raise UserError("data.categories: empty; name some, or `all`")


def _check_steps(config: Config) -> None:
    """Raises UserError for no steps, where a way of comparing walks."""
    name, steps = config.inversion.paradigm, config.inversion.num_steps
    if steps == 0 and name != "inversion" and is_read(config, "inversion.num_steps"):
        raise UserError(f"inversion.num_steps=0: inversion.paradigm={name} takes at least 1")


def _check_whitening(config: Config) -> None:
    white = config.train.latent_stats == "whiten"
    if white and config.train.objective != "diffusion":
        raise UserError(
            f"train.objective={config.train.objective}: train.latent_stats=whiten takes diffusion"
        )
    if white and config.diffusion.prediction != "v":
        raise UserError(
            f"diffusion.prediction={config.diffusion.prediction}: train.latent_stats=whiten takes "
            "v, so that training begins with the exact denoiser of white latents"
        )
    if not white and config.train.num_steps == 0:
        raise UserError("train.num_steps=0: needs train.latent_stats=whiten, or nothing is known")


def _check_tiling(config: Config) -> None:
    size, overlap = config.tiling.size, config.tiling.overlap
    least = RANGES["data.image_size"].least
    if size and not least <= size <= config.data.image_size:
        raise UserError(
            f"tiling.size={size}: must be 0, or {least} to data.image_size={config.data.image_size}"
        )
    if size and overlap >= size:
        raise UserError(f"tiling.overlap={overlap}: must be below tiling.size={size}")


def _check_option(name: str, value: Any) -> None:
    """Raises UserError for a number out of its range, a text too long, or a value given twice."""
    values = value if isinstance(value, tuple) else (value,)
    for item in values:
        if name in RANGES:
            _check_number(name, item)
        elif isinstance(item, str) and (
            "\0" in item or len(item.encode("utf-8", "replace")) > _MOST_BYTES
        ):
            raise UserError(f"{name}: longer than {_MOST_BYTES} bytes, or with a zero byte")
    if name in _PATHS:
        require_known(name, value)
    if name in _SETS:
        twice = [item for item in values if values.count(item) > 1]
        if twice:
            raise UserError(f"{name}: {twice[0]} is given twice")


_SETS = frozenset(
    (
        "data.categories",
        "denoiser.attention_downsamplings",
        "vae.encoder_attention",
        "denoiser.variants",
        "vae.decoder_attention",
        "scoring.terms",
    )
)
"""Lists in which nothing may stand twice."""


def _check_number(name: str, value: float) -> None:
    least, most, above = RANGES[name]
    said = f"{name}={str(value)[:40]}"
    if not -math.inf < value < math.inf:  # unlike isfinite, of a whole number of any length
        raise UserError(f"{said}: must be finite")
    if value < least or (above and value == least):
        raise UserError(f"{said}: must be {'above' if above else 'at least'} {least:g}")
    if value > most:
        raise UserError(f"{said}: must be at most {most:.10g}")


def _check_betas(diffusion: DiffusionConfig) -> None:
    expected = diffusion.num_timesteps if diffusion.schedule == "given" else 2
    if len(diffusion.betas) != expected:
        raise UserError(
            f"diffusion.betas: {len(diffusion.betas)} of them, and "
            f"diffusion.schedule={diffusion.schedule} with "
            f"diffusion.num_timesteps={diffusion.num_timesteps} takes {expected}"
        )
    if _exponent(diffusion) > _MOST_EXPONENT:
        raise UserError(
            f"diffusion.num_timesteps={diffusion.num_timesteps}: with these betas, up to "
            f"{max(diffusion.betas):g}, nothing that a float32 can hold is left of an image before "
            "the last timestep; lower diffusion.betas, or give fewer"
        )


def _exponent(diffusion: DiffusionConfig) -> float:
    """About -log alpha_bar of the last timestep but one: what the betas add up to."""
    first, last, count = diffusion.betas[0], diffusion.betas[-1], diffusion.num_timesteps
    match diffusion.schedule:
        case "linear" | "sigmoid":
            return count * (first + last) / 2
        case "scaled_linear":
            return count * (first + math.sqrt(first * last) + last) / 3
        case "given":
            return sum(-math.log1p(-b) if b < 1 else math.inf for b in diffusion.betas[:-1])
    return 0.0  # a cosine ends by itself


def _check_unet(cfg: DenoiserConfig) -> None:
    if {"pad_at_end", "resample_in_blocks"} <= set(cfg.variants):
        raise UserError("denoiser.variants: pad_at_end and resample_in_blocks exclude each other")
    _check_levels("denoiser.channel_mult", cfg.channel_mult)
    if cfg.attention_downsamplings != DenoiserConfig().attention_downsamplings:
        name = "denoiser.attention_downsamplings"
        _check_factors(name, cfg.attention_downsamplings, cfg.channel_mult)


def _check_levels(name: str, levels: tuple[int, ...]) -> None:
    if not 1 <= len(levels) <= _MOST_LEVELS:
        raise UserError(f"{name}={levels}: needs 1 to {_MOST_LEVELS} multipliers, one a level")


def _check_factors(name: str, factors: tuple[int, ...], levels: tuple[int, ...]) -> None:
    """Raises UserError for a downsampling factor that no level has."""
    has = [2**level for level in range(len(levels))]
    absent = [factor for factor in factors if factor not in has]
    if absent:
        raise UserError(
            f"{name}: no level is downsampled by {absent[0]}; the {len(levels)} levels are by "
            f"{', '.join(map(str, has))}"
        )


def _check_value_range(value_range: tuple[float, ...]) -> None:
    if not value_range:
        return
    if len(value_range) != 2:
        raise UserError(f"data.value_range={value_range}: takes two numbers, BLACK,WHITE")
    if value_range[0] >= value_range[1]:
        raise UserError(f"data.value_range={value_range}: black must be below white")
