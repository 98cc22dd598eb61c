"""Folders of Hugging Face diffusers: `config.json` and the tensors of a `UNet2DModel`.

Its network is the U-Net of guided diffusion under other names, where `config.json` says what
`SAME` lists; anything else is refused by name. The schedule and what is predicted come from the
model's own scheduler config. `DiTTransformer2DModel` is refused: its timestep frequencies end at
1 / 10000 where DiT's stop before, its second norm has another epsilon, and each block has a
timestep embedding of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from invad_jax.config import DenoiserConfig, DiffusionConfig
from invad_jax.converters import Converted
from invad_jax.converters.guided_diffusion import plug_and_play_config
from invad_jax.denoisers import unet
from invad_jax.denoisers.published import params_from_published
from invad_jax.errors import UserError
from invad_jax.files import read_json
from invad_jax.tensor_files import read_tensors

TENSOR_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

SAME = {
    "act_fn": "silu", "add_attention": True, "attn_norm_num_groups": None,
    "center_input_sample": False, "class_embed_type": None, "downsample_padding": 1,
    "downsample_type": "conv", "flip_sin_to_cos": True, "freq_shift": 0,
    "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2D", "norm_eps": 1e-5,
    "norm_num_groups": 32, "num_class_embeds": None, "resnet_time_scale_shift": "default",
    "time_embedding_dim": None, "time_embedding_type": "positional", "upsample_type": "conv",
}  # fmt: skip
"""Options under which a `UNet2DModel` is this U-Net; also the library's defaults."""

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "sample"}

_RES = (
    ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"),
)  # fmt: skip
_OUTER = (
    ("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
    ("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"),
)  # fmt: skip


def read_folder(folder: Path, latent_size: int | None) -> Converted:
    """Reads and checks a model's folder.

    Args:
      folder: has `config.json` and one of `TENSOR_FILES`; its scheduler's config lies in the folder
        itself, in `scheduler/`, or in a `scheduler/` beside it.
      latent_size: h = w; None takes `sample_size`.

    Raises:
      UserError: missing, damaged, malicious, or another network than this U-Net.
    """
    path = folder / "config.json"
    config = _read_object(path)
    cfg = _denoiser_config(config, path)
    diffusion = _diffusion_config(folder)
    channels, size = config.get("in_channels", 3), latent_size or config.get("sample_size")
    if type(size) is not int:
        raise UserError(f"{path}: sample_size={size!r} is no side of a square; give --latent-size")
    if type(channels) is not int or channels < 1 or config.get("out_channels", 3) != channels:
        raise UserError(f"{path}: in_channels and out_channels: expected the same natural number")
    source = next((folder / name for name in TENSOR_FILES if (folder / name).exists()), None)
    if source is None:
        raise UserError(f"{folder}: holds no {' or '.join(TENSOR_FILES)}")
    tensors = to_guided_diffusion(read_tensors(source), cfg, source)
    shape = (size, size, channels)
    params = params_from_published(tensors, cfg, shape, f"{source}, in guided diffusion's names")
    return Converted(plug_and_play_config(cfg, diffusion), shape, params, params)


def to_guided_diffusion(
    tensors: Mapping[str, np.ndarray], cfg: DenoiserConfig, source: Path
) -> dict[str, np.ndarray]:
    """Renames the tensors of a `UNet2DModel`, and joins each query, key and value.

    Raises:
      UserError: a tensor is missing, or none of its layers.
    """
    left = dict(tensors)
    renamed: dict[str, np.ndarray] = {}
    missing: list[str] = []

    def take(name: str) -> np.ndarray | None:
        if name not in left and ".conv_shortcut." not in name:
            missing.append(name)
        return left.pop(name, None)

    for theirs, guided in _layers(cfg):
        for kind in ("weight", "bias"):
            if theirs.endswith(".to_q"):
                stem = theirs.removesuffix("to_q")
                parts = [take(f"{stem}to_{name}.{kind}") for name in "qkv"]
                if all(part is not None for part in parts):
                    renamed[f"net.{guided}.{kind}"] = _joined(parts, cfg.head_channels, source)
            elif (tensor := take(f"{theirs}.{kind}")) is not None:
                unit = (1,) if theirs.endswith(".to_out.0") and kind == "weight" else ()
                renamed[f"net.{guided}.{kind}"] = tensor.reshape(tensor.shape + unit)
    problems = {"missing": missing, "unexpected": sorted(left)}
    found = [f"{what}: {', '.join(names[:8])}" for what, names in problems.items() if names]
    if found:
        raise UserError(f"{source}: does not fit its config.json: {'; '.join(found)}")
    return renamed


def _joined(parts: list[Any], head_channels: int, source: Path) -> np.ndarray:
    """Query, key and value as guided diffusion has them: within each head."""
    rows = parts[0].shape[:1]
    if len({part.shape for part in parts}) != 1 or rows in ((), (0,)) or rows[0] % head_channels:
        raise UserError(f"{source}: a query, key and value do not fit each other")
    shape = (-1, head_channels, *parts[0].shape[1:])
    joined = np.stack([part.reshape(shape) for part in parts], axis=1)  # (heads, 3, channels, ...)
    joined = joined.reshape(-1, *parts[0].shape[1:])  # (3 C, ...)
    return joined[:, :, None] if joined.ndim == 2 else joined


def _layers(cfg: DenoiserConfig) -> Iterator[tuple[str, str]]:
    """(name here in diffusers, name in guided diffusion) of every layer."""
    yield from _OUTER
    yield from _expanded("mid_block.resnets.0", "middle_block.0", "res")
    yield from _expanded("mid_block.attentions.0", "middle_block.1", "attention")
    yield from _expanded("mid_block.resnets.1", "middle_block.2", "res")
    down, up = unet.stages(cfg)
    for theirs, guided, first, way, per_level in (
        ("down_blocks", "input_blocks", 1, down, cfg.num_res_blocks + 1),
        ("up_blocks", "output_blocks", 0, up, cfg.num_res_blocks + 1),
    ):
        for i, stage in enumerate(way):
            level, place = divmod(i, per_level)
            for j, kind in enumerate(stage.layers):
                name = {
                    "res": f"resnets.{place}", "attention": f"attentions.{place}",
                    "down": "downsamplers.0", "up": "upsamplers.0",
                }[kind]  # fmt: skip
                yield from _expanded(f"{theirs}.{level}.{name}", f"{guided}.{i + first}.{j}", kind)


def _expanded(theirs: str, guided: str, kind: str) -> Iterator[tuple[str, str]]:
    if kind == "res":
        yield from ((f"{theirs}.{a}", f"{guided}.{b}") for a, b in _RES)
    elif kind == "attention":
        yield from (
            (f"{theirs}.{a}", f"{guided}.{b}")
            for a, b in (("group_norm", "norm"), ("to_q", "qkv"), ("to_out.0", "proj_out"))
        )
    else:
        yield f"{theirs}.conv", f"{guided}.{'op' if kind == 'down' else 'conv'}"


def _denoiser_config(config: Mapping[str, Any], path: Path) -> DenoiserConfig:
    """The same sizes; raises UserError where the architecture is not the same."""
    name = config.get("_class_name")
    if name != "UNet2DModel":
        raise UserError(f"{path}: {name} has no exact counterpart here; expected UNet2DModel")
    for option, value in SAME.items():
        if config.get(option, value) != value:
            raise UserError(f"{path}: {option}={config[option]!r}: this U-Net has {value!r}")
    try:
        widths = [int(width) for width in config["block_out_channels"]]
        down = [_attends(kind, "Down", path) for kind in config["down_block_types"]]
        up = [_attends(kind, "Up", path) for kind in config["up_block_types"]]
        res_blocks = int(config["layers_per_block"])
        head = config.get("attention_head_dim", 8) and int(config.get("attention_head_dim", 8))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a whole config of a UNet2DModel ({error!r})") from None
    if down != up[::-1]:
        raise UserError(f"{path}: up_block_types do not mirror down_block_types")
    fitting = all(width > 0 and width % widths[0] == width % 32 == 0 for width in widths)
    if len(down) != len(widths) or not widths or not fitting:
        raise UserError(
            f"{path}: block_out_channels={widths}: expected one a level, multiples of 32 and of "
            "the first"
        )
    attended = {width for width, attends in zip(widths, down, strict=True) if attends}
    if head is None and len(attended | {widths[-1]}) > 1:
        raise UserError(f"{path}: attention_head_dim=None: this U-Net has heads of one size")
    return DenoiserConfig(
        name="unet",
        width=widths[0],
        num_res_blocks=res_blocks,
        channel_mult=tuple(width // widths[0] for width in widths),
        attention_downsamplings=tuple(2**level for level, attends in enumerate(down) if attends),
        head_channels=head or widths[-1],
    )


def _attends(kind: str, way: str, path: Path) -> bool:
    if kind not in (f"{way}Block2D", f"Attn{way}Block2D"):
        raise UserError(
            f"{path}: {way.lower()}_block_types: {kind}: expected {way}Block2D or Attn{way}Block2D"
        )
    return kind.startswith("Attn")


def _diffusion_config(folder: Path) -> DiffusionConfig:
    """What the model's own scheduler says; the library's defaults where it has none."""
    name = "scheduler_config.json"
    places = (folder / name, folder / "scheduler" / name, folder.parent / "scheduler" / name)
    path = next((place for place in places if place.exists()), None)
    said = _read_object(path) if path else {}
    for option in ("trained_betas", "rescale_betas_zero_snr"):
        if said.get(option):
            raise UserError(f"{path}: {option} is set, which no schedule here can say")
    schedule = said.get("beta_schedule", "linear")
    prediction = said.get("prediction_type", "epsilon")
    for option, value, known in (
        ("beta_schedule", schedule, SCHEDULES), ("prediction_type", prediction, PREDICTIONS),
    ):  # fmt: skip
        if value not in known:
            raise UserError(f"{path}: {option}={value!r}: expected one of {', '.join(known)}")
    default = DiffusionConfig()
    try:
        return DiffusionConfig(
            num_timesteps=int(said.get("num_train_timesteps", default.num_timesteps)),
            schedule=SCHEDULES[schedule],  # type: ignore[arg-type]
            beta_start=float(said.get("beta_start", default.beta_start)),
            beta_end=float(said.get("beta_end", default.beta_end)),
            prediction=PREDICTIONS[prediction],  # type: ignore[arg-type]
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: not a scheduler's config ({error})") from None


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected options, found {str(value)[:60]!r}")
    return value
