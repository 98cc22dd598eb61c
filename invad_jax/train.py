"""Trains the denoiser on the latents of normal images.

    python -m invad_jax.train --config configs/hazelnut.py

Starting it again with the same command resumes from the newest checkpoint.
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


def main(args: argparse.Namespace) -> None:
    """From a config to a calibrated workdir."""
    if args.profile is not None and args.profile < 1:
        raise UserError(f"--profile {args.profile}: give a number of steps")
    config = command_line.config_of(args)
    with closing(Workdir(command_line.workdir_of(args))) as workdir:
        _train(args, config, workdir)


def _train(args: argparse.Namespace, config: Config, workdir: Workdir) -> None:
    from invad_jax.data import layouts, masks
    from invad_jax.data.depth import with_value_range
    from invad_jax.encoders import build_encoder, describe_encoder, kept
    from invad_jax.inference import components
    from invad_jax.inference.assembly import build_detector
    from invad_jax.inference.calibrate import calibrate
    from invad_jax.inference.encode import encode_samples
    from invad_jax.inference.load import load_model
    from invad_jax.normality.reference import check_enough
    from invad_jax.runtime import processes
    from invad_jax.runtime.sharding import check_batch, make_mesh
    from invad_jax.training import memory
    from invad_jax.training.denoiser import needed, train_denoiser
    from invad_jax.training.loop import check_unchanged

    mesh = make_mesh(config.mesh)
    check_batch(config.train, mesh)
    _, described = describe_encoder(config.encoder, config.data.image_size, config.tiling)
    memory.check_denoiser(config, described, mesh)
    dataset = layouts.load_dataset(config.data)
    config = with_value_range(workdir.adopt(config), dataset.train)
    fit, held_out = layouts.hold_out(dataset.train, config.data.holdout_fraction)
    check_enough(needed(config), [sample.category for sample in fit])
    encoder = build_encoder(
        config.encoder, config.data.image_size, config.tiling, masks.read_region(config.data)
    )
    # Sizes that do not fit are said before anything is written.
    build_detector(config, described.latent_shape, described.apply)
    # Refused before anything is written; with components the network is another.
    check_unchanged(workdir, config, fit, None if config.encoder.channels else encoder.fingerprint)
    components.check_unchanged(config, workdir, encoder, fit)
    workdir.claim(config, write=processes.is_primary())
    if processes.is_primary():
        kept.keep(config.encoder, workdir.encoder)
    log.info("%d normal images to train on, %d held out", len(fit), len(held_out))

    encoder = components.learn(config, workdir, encoder, fit, mesh)
    latents = encode_samples(fit, encoder, config, mesh)
    new = encode_samples(held_out, encoder, config, mesh) if held_out else None
    fitted, white = train_denoiser(
        config, workdir, encoder, latents, fit, new, mesh, args.profile or 0
    )
    if fitted.stopped:
        return
    del fitted  # the devices have room for the detector
    calibrations = calibrate(load_model(workdir, config), workdir, lambda: (fit, held_out), white)
    for name, one in calibrations:
        of = f" of {name}" if name else ""
        log.info(
            "calibrated on %d normal images%s: threshold %.3f", one.num_normals, of, one.threshold
        )
    verb, more = ("eval", "") if dataset.test else ("predict", " --input IMAGES --out FOLDER")
    log.info("next: python -m invad_jax.%s --workdir %s%s", verb, workdir.path, more)


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_run()
    parser.add_argument(
        "--profile",
        type=int,
        metavar="N",
        help="trace N steps for XProf, into profile/ of the workdir",
    )
    allocator.keep_freed()  # before others are joined, which imports JAX
    return command_line.run(main, parser, argv, preemptible=True)


if __name__ == "__main__":
    sys.exit(cli())
