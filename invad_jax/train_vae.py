"""Trains a VAE on normal images: the first stage of latent diffusion.

    python -m invad_jax.train_vae --config configs/mvtec_vae.py

Then `encoder.name=vae encoder.weights=<workdir>` is an encoder like any other. Starting it again
with the same command resumes from the newest checkpoint. At the end the workdir holds, besides what
every run leaves:

    vae.safetensors   averaged parameters under the names of latent diffusion, and `scale`
    vae.json          sizes, scale, and how well held-out normals are reconstructed
    examples.png      some of them, each beside its reconstruction
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing

from invad_jax.config import Config
from invad_jax.errors import UserError
from invad_jax.runtime import allocator
from invad_jax.runtime import cli as command_line
from invad_jax.runtime.log import log
from invad_jax.runtime.workdir import Workdir

EXAMPLES = 6
"""Images that are drawn beside their reconstructions."""


def main(args: argparse.Namespace) -> None:
    """From a config to a workdir that the encoder `vae` reads."""
    config = command_line.config_of(args)
    with closing(Workdir(command_line.workdir_of(args))) as workdir:
        _train(config, workdir)


def _train(config: Config, workdir: Workdir) -> None:
    size, factor = config.data.image_size, config.vae.downsampling
    if size % factor:
        raise UserError(f"data.image_size={size}: vae.multipliers need a multiple of {factor}")
    import jax

    from invad_jax.data import layouts
    from invad_jax.data.depth import with_value_range
    from invad_jax.encoders import build_encoder, describe_encoder
    from invad_jax.runtime import processes
    from invad_jax.runtime.sharding import check_batch, make_mesh
    from invad_jax.training import memory
    from invad_jax.training.loop import check_unchanged
    from invad_jax.training.vae import make_draw, replicate, summarise, train_vae, write_results

    mesh = make_mesh(config.mesh)
    check_batch(config.train, mesh)
    perceptual_term = config.vae_loss.perceptual_weight > 0
    described = describe_encoder(config.encoder, size)[1] if perceptual_term else None
    memory.check_vae(config, described, mesh)
    dataset = layouts.load_dataset(config.data)
    config = with_value_range(workdir.adopt(config), dataset.train)
    fit, held_out = layouts.hold_out(dataset.train, config.data.holdout_fraction)
    perceptual = build_encoder(config.encoder, size) if perceptual_term else None
    draw = make_draw(config, (held_out or fit)[:EXAMPLES], mesh)
    check_unchanged(workdir, config, fit)
    workdir.claim(config, write=processes.is_primary())
    log.info("%d normal images to train on, %d held out", len(fit), len(held_out))

    state, stopped = train_vae(config, workdir, fit, perceptual, mesh, draw)
    if stopped:
        return
    params = replicate(state.ema_params, mesh)
    summary = summarise(config, params, int(state.step), fit, held_out, mesh)
    pictures = draw(params)
    if processes.is_primary():
        write_results(workdir.path, summary, jax.device_get(params), pictures)
        print(
            "PSNR {psnr:.2f} dB, SSIM {ssim:.4f}, KL {kl:.3f} nats a latent value; latents of "
            "standard deviation {latent_std:.4f}".format(**summary)
        )
    log.info("next: a config with encoder.name=vae, encoder.weights=%s", workdir.path)


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_run()
    allocator.keep_freed()  # before others are joined, which imports JAX
    return command_line.run(main, parser, argv, preemptible=True)


if __name__ == "__main__":
    sys.exit(cli())
