"""Trains a VAE on images, and says how good it has become.

Read next: `vae_loss.py`, what it minimises.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image
from tqdm import tqdm

from invad_jax.config import Config, VAEConfig
from invad_jax.config.io import config_hash, to_dict
from invad_jax.data import layouts, pipeline
from invad_jax.data.preprocess import read_image
from invad_jax.encoders import Encoder
from invad_jax.encoders.vae import SCALE, AutoencoderKL, vae_state_from_params
from invad_jax.errors import UserError
from invad_jax.inference.images import run_on_images
from invad_jax.io import files
from invad_jax.io.tensors import write_tensors
from invad_jax.runtime import processes
from invad_jax.runtime.sharding import batch_sharding, put, replicated, rounded_up
from invad_jax.runtime.workdir import Workdir
from invad_jax.training import loop
from invad_jax.training.image_quality import psnr, ssim
from invad_jax.training.vae_loss import kl_to_standard_normal, make_vae_loss, to_signed

Samples = Sequence[layouts.Sample]
Draw = Callable[[Any], dict[str, np.ndarray]]
"""Parameters -> pictures by name, (H, W, 3) uint8."""


def train_vae(
    config: Config,
    workdir: Workdir,
    fit: Samples,
    perceptual: Encoder | None,
    mesh: Mesh,
    draw: Draw,
) -> loop.Fitted:
    """Runs the loop to the last step of the config; see `loop.fit`.

    Args:
      config: the experiment.
      workdir: claimed by it.
      fit: images to train on.
      perceptual: the network of the perceptual term, if there is one.
      mesh: devices.
      draw: what to look at during training.
    """
    size = config.data.image_size
    image = np.zeros((1, size, size, 3), np.float32)
    return loop.fit(
        cfg=config.train,
        init_params=lambda rng: AutoencoderKL(config.vae).init(rng, image)["params"],
        frozen=perceptual.variables if perceptual else {},
        loss_fn=make_vae_loss(
            config.vae, config.vae_loss, perceptual.features if perceptual else None
        ),
        iterator=pipeline.training_image_batches(
            [sample.path for sample in fit],
            config.data,
            config.train.seed,
            config.train.batch_size,
            jax.process_index(),
            jax.process_count(),
        ),
        mesh=mesh,
        workdir=workdir,
        meta={
            "kind": "vae",
            "config": to_dict(config),
            "config_hash": config_hash(config),
            "versions": processes.versions(),
            "dataset": layouts.fingerprint(fit),
            "encoder": perceptual.fingerprint if perceptual else None,
        },
        draw=draw,
    )


def replicate(params: Any, mesh: Mesh) -> Any:
    """All of the parameters on every device, whatever their sharding was."""
    return jax.jit(lambda params: params, out_shardings=replicated(mesh))(params)


def autoencode(vae: VAEConfig, params: Any, image: jax.Array) -> tuple[jax.Array, ...]:
    """Posterior mean and log-variance, and the reconstruction from the mean.

    Args:
      vae: sizes.
      params: of the network.
      image: (B, S, S, 3) uint8.

    Returns:
      Mean and log-variance (B, h, w, C), reconstruction (B, S, S, 3) in 0..1.
    """
    model, variables = AutoencoderKL(vae), {"params": params}
    posterior: Any = model.apply(variables, to_signed(image), method="encode")
    mean, logvar = posterior
    decoded: Any = model.apply(variables, mean, method="decode")
    return mean, logvar, jnp.clip((decoded + 1) / 2, 0, 1)


def quality(vae: VAEConfig, params: Any, image: jax.Array) -> dict[str, jax.Array]:
    """PSNR, SSIM and the divergence in nats a latent value, of each image (B,)."""
    mean, logvar, reconstruction = autoencode(vae, params, image)
    original = image.astype(jnp.float32) / 255
    return {
        "psnr": psnr(original, reconstruction),
        "ssim": ssim(original, reconstruction),
        "kl": jnp.mean(kl_to_standard_normal(mean, logvar), axis=(1, 2, 3)),
    }


def moments(vae: VAEConfig, params: Any, image: jax.Array) -> dict[str, jax.Array]:
    """Mean and mean square of each image's latent, (B,)."""
    latent, *_ = autoencode(vae, params, image)
    return {
        "mean": jnp.mean(latent, axis=(1, 2, 3)),
        "square": jnp.mean(jnp.square(latent), axis=(1, 2, 3)),
    }


def per_image(
    measure: Callable[[VAEConfig, Any, jax.Array], dict[str, jax.Array]],
    config: Config,
    params: Any,
    samples: Samples,
    mesh: Mesh,
) -> dict[str, np.ndarray]:
    """Measures every image once, on all processes: name -> (N,) float64."""
    compiled = jax.jit(
        partial(measure, config.vae),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=replicated(mesh),
    )
    paths = [sample.path for sample in samples]
    batch_size = rounded_up(config.eval.batch_size, mesh)
    batches = run_on_images(compiled, params, paths, config.data, batch_size, mesh)
    shown = tqdm(batches, desc="measure", unit="batch", disable=not processes.is_primary())
    parts = [values for _, values in shown]
    return {name: np.concatenate([p[name] for p in parts], dtype=np.float64) for name in parts[0]}


def summarise(
    config: Config, params: Any, step: int, fit: Samples, held_out: Samples, mesh: Mesh
) -> dict[str, Any]:
    """What `vae.json` says: the latents' scale, and the quality on held-out normals if there are.

    Raises:
      UserError: all latents are the same.
    """
    latent = per_image(moments, config, params, fit, mesh)
    variance = latent["square"].mean() - latent["mean"].mean() ** 2
    if variance < 1e-12:
        raise UserError(
            f"vae_loss.kl_weight={config.vae_loss.kl_weight:g}: the latents no longer depend on "
            "the image; lower it"
        )
    measured = per_image(quality, config, params, held_out or fit, mesh)
    side = config.data.image_size // config.vae.downsampling
    return {
        "schema": 1,
        "step": step,
        "config_hash": config_hash(config),
        "image_size": config.data.image_size,
        "latent_shape": [side, side, config.vae.latent_channels],
        "vae": dataclasses.asdict(config.vae),
        "latent_std": float(np.sqrt(variance)),
        "scale": float(1 / np.sqrt(variance)),
        "n_images": len(held_out or fit),
        "held_out": bool(held_out),
        **{name: float(measured[name].mean()) for name in ("psnr", "ssim", "kl")},
    }


def make_draw(config: Config, samples: Samples, mesh: Mesh) -> Draw:
    """A function of parameters that draws the images, each with its reconstruction beside it."""
    if not samples:
        return lambda params: {}
    images = np.stack([read_image(sample.path, config.data) for sample in samples])
    on_mesh = put(images, replicated(mesh))  # once: the loop allows no hidden copies
    reconstruct = jax.jit(
        lambda params, image: jnp.rint(255 * autoencode(config.vae, params, image)[-1]),
        out_shardings=replicated(mesh),
    )

    def draw(params: Any) -> dict[str, np.ndarray]:
        reconstructions = jax.device_get(reconstruct(params, on_mesh)).astype(np.uint8)
        pairs = np.concatenate([images, reconstructions], axis=2)  # (N, S, 2S, 3)
        return {"reconstructions": np.concatenate(pairs)}  # (N S, 2S, 3)

    return draw


def write_results(
    folder: Path, summary: dict[str, Any], params: Any, pictures: dict[str, np.ndarray]
) -> None:
    """Writes the three files; the one that encoders read is last, when all is well."""
    for picture in pictures.values():
        with files.replaced(folder / "examples.png") as temporary:
            Image.fromarray(picture).save(temporary, "PNG")
    files.write_json(folder / "vae.json", summary)
    state = vae_state_from_params(params) | {SCALE: np.array(summary["scale"], np.float32)}
    write_tensors(folder / "vae.safetensors", state)
