"""The published PyTorch code's folders: `config.yaml` beside `model_{latest,ema_latest,best}.pth`.

Every size is read from the tensors; `config.yaml` says what no tensor tells (the encoder, the image
size, the data) and is checked against the tensors where both speak. The evaluation settings become
the published ones: raw latents, timesteps 0/500/999, final alpha_bar 0, x_T against N(0, I),
parameters not averaged.
Read next: `../denoisers/published.py`, the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from invad_jax.config import (
    Config,
    DataConfig,
    DenoiserConfig,
    DiffusionConfig,
    EncoderConfig,
    InversionConfig,
    ScoringConfig,
    TrainConfig,
)
from invad_jax.config.names import option, option_text
from invad_jax.converters import FILES, SETTINGS, Converted
from invad_jax.converters.published import (
    PUBLISHED_CLASSES,
    PUBLISHED_Z_CHANNELS,
    denoiser_config_from_published,
    latent_shape_from_published,
    params_from_published,
    params_to_published,
    unused_from_published,
)
from invad_jax.denoisers.layers import MLP_RATIO
from invad_jax.errors import UserError
from invad_jax.io.files import read_bytes, write_text
from invad_jax.io.tensors import read_tensors, write_tensors
from invad_jax.io.yaml_format import read_yaml

IMAGE_SIZE, STRIDE = 256, 16
"""Of the published system, where there is no `config.yaml`."""

PUBLISHED_NETWORKS = ("dit", "unet", "mlp")
BEYOND_PUBLISHED = (
    "train.objective",
    *("denoiser.norm_groups", "denoiser.norm_eps", "denoiser.variants"),
    *("encoder.stage_resize", "encoder.pool", "encoder.groups", "encoder.channels"),
    *("tiling.size", "data.aspect", "data.region"),
)
"""Options that the published code has in one form, our default."""

Settings = Mapping[str, Any]
T = TypeVar("T")


def read_folder(
    folder: Path, which: str | None, hints: Mapping[str, int], latent_size: int | None
) -> Converted:
    """Reads and checks all of a published folder.

    Args:
      folder: holds at least one of `FILES`.
      which: key of `FILES` that becomes `params`; None takes the first that exists of latest, best,
        ema.
      hints: see `denoiser_config_from_published`.
      latent_size: h = w of the latents; None takes what the tensors or `config.yaml` say.

    Raises:
      UserError: something is missing, damaged, malicious or contradictory.
    """
    if not folder.is_dir():
        raise UserError(f"--input {folder}: no such folder")
    path = folder / _chosen(folder, which)
    settings = _read_settings(folder / SETTINGS)
    if "num_heads" not in hints and (heads := _get(settings, "diffusion.num_heads", int)):
        hints = {**hints, "num_heads": heads}
    tensors = read_tensors(path)
    cfg = denoiser_config_from_published(tensors, hints, str(path))
    _check_settings(settings, cfg, folder)
    image_size = _get(settings, "data.img_size", int) or IMAGE_SIZE
    stride = _get(settings, "backbone.stride", int) or STRIDE
    shape = latent_shape_from_published(tensors, latent_size or image_size // stride, str(path))
    if latent_size not in (None, shape[0]):
        raise UserError(f"--latent-size {latent_size}: the positions in {path} are for {shape[0]}")
    params = params_from_published(tensors, cfg, shape, str(path))
    ema_path = folder / FILES["ema"]
    if not ema_path.exists():
        ema_path = path
    ema_tensors = read_tensors(ema_path)
    ema_params = params_from_published(ema_tensors, cfg, shape, str(ema_path))
    return Converted(
        config=_config(settings, cfg, image_size),
        latent_shape=shape,
        params=params,
        ema_params=ema_params,
        kept_tensors={
            "params": unused_from_published(tensors, cfg),
            "ema_params": unused_from_published(ema_tensors, cfg),
        },
        kept_text=read_bytes(folder / SETTINGS).decode() if settings else "",
    )


def write_folder(folder: Path, converted: Converted) -> None:
    """Writes what the published code loads: `latest` from `params`, `ema` from `ema_params`.

    Without kept tensors and settings, the layers that the method does not run are zeros and the
    settings are made from the config.
    """
    cfg, kept = converted.config.denoiser, converted.kept_tensors
    latest = params_to_published(converted.params, cfg, kept.get("params"))
    average = params_to_published(converted.ema_params, cfg, kept.get("ema_params"))
    write_tensors(folder / FILES["latest"], latest)
    write_tensors(folder / FILES["ema"], average)
    write_text(folder / SETTINGS, converted.kept_text or _settings_text(converted.config))


def check_writable(config: Config, source: Path) -> None:
    """Raises UserError unless the published code can say what this config says."""
    if config.train.latent_stats != "none":
        raise UserError(
            f"{source}: was trained on standardised latents (train.latent_stats="
            f"{config.train.latent_stats}), which the published code does not know; only models "
            "trained with train.latent_stats=none can be written"
        )
    known = {name: (option(Config(), name),) for name in BEYOND_PUBLISHED}
    for name, values in {"denoiser.name": PUBLISHED_NETWORKS, **known}.items():
        if option(config, name) not in values:
            raise UserError(
                f"{source}: {name}={option_text(config, name)}: the published code has only "
                f"{', '.join(str(value) or 'none' for value in values)}"
            )
    if config.diffusion != DiffusionConfig():
        raise UserError(
            f"{source}: its diffusion.* options are not the defaults, the only ones that the "
            "published code knows"
        )


def _chosen(folder: Path, which: str | None) -> str:
    """The file that becomes `params`."""
    candidates = [FILES[which]] if which else [FILES[name] for name in ("latest", "best", "ema")]
    for name in candidates:
        if (folder / name).exists():
            return name
    raise UserError(f"--input {folder}: holds no {' or '.join(candidates)}")


def _read_settings(path: Path) -> Settings:
    """`config.yaml`, or nothing where there is none."""
    if not path.exists():
        return {}
    settings = read_yaml(path)
    if not isinstance(settings, dict):
        raise UserError(f"{path}: expected sections such as `diffusion:`")
    return settings


def _get(settings: Settings, name: str, kind: type[T]) -> T | None:
    """The value of `section.option`, or None where it is absent."""
    section, option = name.split(".")
    value = _section(settings, section).get(option)
    if value is not None and type(value) is not kind:
        raise UserError(f"{SETTINGS}: {name}: {str(value)[:60]!r} is not of type {kind.__name__}")
    return value


def _section(settings: Settings, name: str) -> Settings:
    options = settings.get(name) or {}
    if not isinstance(options, dict):
        raise UserError(f"{SETTINGS}: {name}: expected options, found {str(options)[:60]!r}")
    return options


def _check_settings(settings: Settings, cfg: DenoiserConfig, folder: Path) -> None:
    """Raises UserError where the settings speak of another network than the tensors make."""
    said: dict[str, Any] = {"name": _get(settings, "diffusion.model_type", str)}
    if cfg.name != "unet":  # whose sizes the published code does not take from its settings
        said |= {name: _get(settings, f"diffusion.{name}", int) for name in ("width", "depth")}
    for name, value in said.items():
        if value not in (None, getattr(cfg, name)):
            raise UserError(
                f"{folder}: its tensors make a denoiser of {name} {getattr(cfg, name)}, and its "
                f"{SETTINGS} says {value}: files of different runs, or layers are missing"
            )


def _config(settings: Settings, cfg: DenoiserConfig, image_size: int) -> Config:
    """The published evaluation, as far as possible of the data that the settings name."""
    dataset = (_get(settings, "data.dataset_name", str) or "mvtec").split("_")[0]
    category = _section(settings, "data").get("category", "all")
    backbone = _get(settings, "backbone.model_type", str) or "efficientnet-b4"
    return Config(
        data=DataConfig(
            name={"mpdd": "mvtec"}.get(dataset, dataset),
            root=_get(settings, "data.data_root", str) or "",
            categories=tuple(map(str, category if isinstance(category, list) else [category])),
            image_size=image_size,
            holdout_fraction=0.0,  # all normals were trained on
        ),
        encoder=EncoderConfig(
            name=backbone.replace("-", "_"),
            stages=_stages(settings),
        ),
        denoiser=cfg,
        train=TrainConfig(latent_stats="none"),
        inversion=InversionConfig(
            num_steps=_get(settings, "evaluation.eval_step", int) or 3, use_ema=False
        ),
        scoring=ScoringConfig(prior="standard_normal"),
    )


def _stages(settings: Settings) -> tuple[int, ...]:
    stages = _get(settings, "backbone.outblocks", list) or []
    if any(type(stage) is not int for stage in stages):
        raise UserError(f"{SETTINGS}: backbone.outblocks: {str(stages)[:60]}: expected numbers")
    return tuple(stages)


def _settings_text(config: Config) -> str:
    """The settings that the published code needs to build this network and its encoder."""
    denoiser = config.denoiser
    settings = {
        "diffusion": {
            "model_type": denoiser.name,
            "width": denoiser.width,
            "depth": denoiser.depth,
            "num_heads": denoiser.num_heads,
            "mlp_ratio": float(MLP_RATIO),
            "patch_size": denoiser.patch_size,
            "num_classes": PUBLISHED_CLASSES,
            "z_channels": PUBLISHED_Z_CHANNELS,
            "num_sampling_steps": "100",
            "learn_sigma": False,
            "grad_checkpoint": False,
        },
        "backbone": {
            "model_type": config.encoder.name.replace("_", "-"),
            "outblocks": list(config.encoder.stages),
        },
        "data": {
            "dataset_name": config.data.name,
            "data_root": config.data.root,
            "category": list(config.data.categories),
            "img_size": config.data.image_size,
        },
        "evaluation": {"eval_step": config.inversion.num_steps},
    }
    return yaml.safe_dump(settings)
