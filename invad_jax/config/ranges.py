"""The ranges of the options, and what they must have in common."""

from __future__ import annotations

import math

from invad_jax.config import Config, DiffusionConfig, option, option_names
from invad_jax.errors import UserError


def validate(config: Config) -> None:
    """Checks ranges.

    Raises:
      UserError: the first option that is out of its range.
    """
    at_least = {
        "data.image_size": 16, "data.max_pixels": 1, "data.num_workers": 0, "encoder.pool": 1,
        "denoiser.width": 1, "denoiser.depth": 1, "denoiser.num_heads": 1, "denoiser.patch_size": 1,
        "denoiser.num_res_blocks": 1, "denoiser.head_channels": 0, "denoiser.norm_groups": 1,
        "denoiser.norm_eps": 0, "denoiser.time_frequency_shift": 0, "diffusion.num_timesteps": 2,
        "vae.width": 1, "vae.num_res_blocks": 1, "vae.latent_channels": 1, "vae_loss.kl_weight": 0,
        "vae_loss.perceptual_weight": 0,
        "train.num_steps": 0, "train.batch_size": 1, "train.warmup_steps": 0,
        "train.checkpoint_every": 1, "train.keep_checkpoints": 1, "train.log_every": 1,
        "train.grad_accumulation": 1, "whitening.radius": 0, "whitening.images": 1,
        "whitening.identity": 0,
        "mesh.tensor": 1, "inversion.num_steps": 1, "eval.batch_size": 1, "eval.num_examples": 0,
    }  # fmt: skip
    for name, low in at_least.items():
        value = option(config, name)
        if value < low:
            raise UserError(f"{name}={value}: must be at least {low}")
    for name in option_names():
        if isinstance(option(config, name), float) and not math.isfinite(option(config, name)):
            raise UserError(f"{name}={option(config, name)}: must be finite")
    within = {
        "data.holdout_fraction": (0.0, 0.9), "inversion.final_alpha_bar": (0.0, 1.0),
        "inversion.noise_ratio": (0.0, 1.0), "calibration.false_positive_rate": (0.0, 1.0),
        "train.ema_decay": (0.0, 1.0),
        "diffusion.beta_start": (0.0, 1.0), "diffusion.beta_end": (0.0, 1.0),
    }  # fmt: skip
    for name, (lower, upper) in within.items():
        if not lower <= option(config, name) <= upper:
            raise UserError(
                f"{name}={option(config, name)}: must lie between {lower:g} and {upper:g}"
            )
    if config.inversion.num_steps > config.diffusion.num_timesteps:
        raise UserError(
            f"inversion.num_steps={config.inversion.num_steps}: must be at most "
            f"diffusion.num_timesteps={config.diffusion.num_timesteps}"
        )
    _validate_betas(config.diffusion)
    _validate_whitening(config)
    if config.inversion.noise_ratio == 0:
        raise UserError("inversion.noise_ratio=0: must be above 0, or nothing is perturbed")
    if min(config.vae.multipliers, default=0) < 1:
        raise UserError(f"vae.multipliers={config.vae.multipliers}: needs positive multipliers")
    _validate_value_range(config.data.value_range)
    if not config.data.categories:
        raise UserError("data.categories: empty; name some, or `all`")


def _validate_whitening(config: Config) -> None:
    white = config.train.latent_stats == "whiten"
    if white and config.diffusion.prediction != "v":
        raise UserError(
            f"diffusion.prediction={config.diffusion.prediction}: train.latent_stats=whiten takes "
            "v, so that training begins with the exact denoiser of white latents"
        )
    if not white and config.train.num_steps == 0:
        raise UserError("train.num_steps=0: needs train.latent_stats=whiten, or nothing is known")
    if config.whitening.temperature <= 0:
        raise UserError(f"whitening.temperature={config.whitening.temperature}: must be positive")


def _validate_betas(diffusion: DiffusionConfig) -> None:
    betas = diffusion.betas
    expected = diffusion.num_timesteps if diffusion.schedule == "given" else 0
    if len(betas) != expected:
        raise UserError(
            f"diffusion.betas: {len(betas)} of them, and diffusion.schedule={diffusion.schedule} "
            f"with diffusion.num_timesteps={diffusion.num_timesteps} takes {expected}"
        )
    odd = [beta for beta in betas if not 0 < beta <= 1]
    if odd:
        raise UserError(f"diffusion.betas: {odd[0]!r}: must lie between 0 and 1")


def _validate_value_range(value_range: tuple[float, ...]) -> None:
    if not value_range:
        return
    if len(value_range) != 2 or not all(map(math.isfinite, value_range)):
        raise UserError(f"data.value_range={value_range}: takes two numbers, BLACK,WHITE")
    if value_range[0] >= value_range[1]:
        raise UserError(f"data.value_range={value_range}: black must be below white")
