"""Folders of Hugging Face diffusers: `config.json` and the tensors of one model.

`UNet2DModel` and `DiTTransformer2DModel` become workdirs, `AutoencoderKL` an encoder. Every option
is read; one that our networks lack is refused by name. The schedule and what is predicted come from
the model's own scheduler config.
Read next: `diffusers_unet.py`, `diffusers_dit.py`, `diffusers_vae.py`, `diffusers_schedule.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from invad_jax.converters import (
    Converted,
    ConvertedVAE,
    check_latents,
    check_sizes,
    diffusers_dit,
    diffusers_unet,
    diffusers_vae,
)
from invad_jax.converters.diffusers_options import Options
from invad_jax.converters.diffusers_schedule import read_diffusion
from invad_jax.converters.guided_diffusion import plug_and_play_config
from invad_jax.converters.published import params_from_published
from invad_jax.denoisers import build_denoiser
from invad_jax.errors import UserError
from invad_jax.io.tensors import read_tensors

TENSOR_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
DENOISERS = {
    **dict.fromkeys(diffusers_unet.NAMES, (diffusers_unet, 3)),
    **dict.fromkeys(diffusers_dit.NAMES, (diffusers_dit, 4)),
}
"""Class -> its reader, and the library's default number of channels."""


def read_folder(
    folder: Path, latent_size: int | None, class_label: int | None
) -> Converted | ConvertedVAE:
    """Reads and checks a model's folder.

    Args:
      folder: has `config.json` and one of `TENSOR_FILES`.
      latent_size: h = w of a denoiser's latents; None takes `sample_size`.
      class_label: which class a class-conditional denoiser shall take every image for; None: no
        class, where it knows that.

    Raises:
      UserError: missing, damaged, malicious, or another architecture.
    """
    if (folder / "model_index.json").exists() and not (folder / "config.json").exists():
        raise UserError(f"{folder}: a whole pipeline; give the folder of its unet or transformer")
    options = Options(folder / "config.json")
    name = str(options.values.get("_class_name"))
    if name in diffusers_vae.NAMES:
        if (latent_size, class_label) != (None, None):
            raise UserError(f"{options.path}: a VAE takes no --latent-size and no --class-label")
        return diffusers_vae.converted(*_read_tensors(folder, options))
    if name not in DENOISERS:
        known = ", ".join((*DENOISERS, *diffusers_vae.NAMES))
        raise options.wrong("_class_name", f"expected one of {known}")
    return _read_denoiser(folder, options, latent_size, class_label)


def _read_denoiser(
    folder: Path, options: Options, latent_size: int | None, class_label: int | None
) -> Converted:
    reader, default_channels = DENOISERS[options.values["_class_name"]]
    cfg = reader.denoiser_config(options)
    check_sizes(options.path, cfg)
    diffusion = read_diffusion(folder)
    sample_size = options.values.get("sample_size")
    fixed = reader is diffusers_dit and type(sample_size) is int
    if fixed and latent_size not in (None, sample_size):
        raise UserError(
            f"{options.path}: --latent-size {latent_size}: "
            f"this DiT's positions are for {sample_size}"
        )
    size = latent_size or sample_size
    if type(size) is not int or size < 1:
        raise options.wrong("sample_size", "no side of a square; give --latent-size")
    channels, _ = diffusers_dit.output_channels(options, default_channels)
    shape = (size, size, channels)
    check_latents(options.path, cfg, shape)
    try:
        build_denoiser(cfg, shape)
    except UserError as error:
        raise UserError(f"{options.path}: {error}") from None
    tensors, _, source = _read_tensors(folder, options)
    tensors = reader.renamed(tensors, options, cfg, class_label, source)
    params = params_from_published(tensors, cfg, shape, f"{source}, renamed")
    return Converted(plug_and_play_config(cfg, diffusion), shape, params, params)


def _read_tensors(folder: Path, options: Options) -> tuple[dict[str, np.ndarray], Options, Path]:
    source = next((folder / name for name in TENSOR_FILES if (folder / name).exists()), None)
    if source is None:
        raise UserError(f"{folder}: holds no {' or '.join(TENSOR_FILES)}")
    return read_tensors(source), options, source
