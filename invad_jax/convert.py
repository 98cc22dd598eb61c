"""Brings models of other code bases into workdirs, and back.

    python -m invad_jax.convert --from invad-pytorch --input DIR --workdir runs/published
    python -m invad_jax.convert --from guided-diffusion --input model.pt --latent-size 64 \\
        --head-channels 64 --workdir runs/adm
    python -m invad_jax.convert --from diffusers --input DIR --workdir runs/unet
    python -m invad_jax.convert --from diffusers --input DIR/vae --workdir runs/vae
    python -m invad_jax.convert --from deco-diff --input last.pt --workdir runs/deco_diff
    python -m invad_jax.convert --to invad-pytorch --workdir runs/published --output DIR

The workdir is what `eval`, `predict` and `invad_jax.load` take; that of a VAE is what
`encoder.name=vae encoder.weights=runs/vae` takes. Nothing is written unless all of the input is
right. Read next: `converters/invad_pytorch.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from invad_jax.config import MeshConfig
from invad_jax.config import io as config_io
from invad_jax.config.io import config_hash, to_dict
from invad_jax.converters import DETECTORS, FILES, MAX_SIDE, SETTINGS, Converted, ConvertedVAE
from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.io.paths import is_remote, to_path
from invad_jax.io.tensors import read_tensors, write_tensors
from invad_jax.runtime import cli as command_line
from invad_jax.runtime.workdir import Workdir

SOURCES = ("invad-pytorch", "guided-diffusion", "diffusers", *DETECTORS)
TARGETS = ("invad-pytorch",)
_HINTS = {
    "invad-pytorch": ("which", "num_heads", "head_channels", "latent_size"),
    "guided-diffusion": ("head_channels", "class_label", "latent_size"),
    "diffusers": ("class_label", "latent_size"),
    **dict.fromkeys(DETECTORS, ("num_heads", "head_channels", "latent_size")),
    "diad": ("num_heads", "head_channels", "latent_size", "text"),
}
"""What each source asks, beside its tensors."""


def main(args: argparse.Namespace) -> None:
    """One way or the other."""
    if (args.source is None) == (args.target is None):
        raise UserError("give either --from and --input, or --to and --output")
    if not args.workdir:
        raise UserError("give --workdir DIR")
    workdir = Workdir(args.workdir)
    asked = ("input", "set", *_HINTS[args.source]) if args.source else ("output",)
    for option in ("input", "output", "set", *sorted(set().union(*_HINTS.values()))):
        if getattr(args, option) not in (None, []) and option not in asked:
            way = f"--from {args.source}" if args.source else f"--to {args.target}"
            raise UserError(f"--{option.replace('_', '-')}: is not asked by {way}")
    if args.source:
        if not args.input:
            raise UserError("give --input, what to convert")
        converted, origin = read(args), f"{args.source}: {args.input}"
        if is_remote(workdir.path) and isinstance(converted, Converted):
            files.require_new(workdir.path)  # a checkpoint is committed where it is written
            write_workdir(workdir, converted, origin)
        else:
            with files.new_folder(workdir.path) as folder:
                if isinstance(converted, ConvertedVAE):
                    write_vae(folder, converted, origin)
                else:
                    write_workdir(Workdir(folder), converted, origin)
        print(f"{workdir.path}: {_described(converted)}")
        return
    if not args.output:
        raise UserError("give --output DIR, where to write")
    converted = read_workdir(workdir)
    from invad_jax.converters import invad_pytorch

    invad_pytorch.check_writable(converted.config, workdir.path)
    with files.new_folder(args.output) as folder:
        invad_pytorch.write_folder(folder, converted)
    print(f"{args.output}: {', '.join(sorted(p.name for p in to_path(args.output).iterdir()))}")


def _described(converted: Converted | ConvertedVAE) -> str:
    if isinstance(converted, ConvertedVAE):
        scale = converted.summary["scale"]
        return f"a VAE of scale {scale:g}; use it with encoder.name=vae encoder.weights=<this>"
    grid = " x ".join(map(str, converted.latent_shape))
    return f"{converted.config.denoiser.name} for latents of {grid}"


def read(args: argparse.Namespace) -> Converted | ConvertedVAE:
    """The whole input, checked, with the `--set` changes."""
    hints = {name: getattr(args, name) for name in ("num_heads", "head_channels")}
    hints = {name: value for name, value in hints.items() if value is not None}
    path = to_path(args.input)
    if args.latent_size is not None and not 1 <= args.latent_size <= MAX_SIDE:
        raise UserError(f"--latent-size {args.latent_size}: expected 1 to {MAX_SIDE}")
    from invad_jax.converters import diffusers_folder, guided_diffusion, invad_pytorch, rivals
    from invad_jax.inference.assembly import check_outputs

    converted: Converted | ConvertedVAE
    if args.source == "invad-pytorch":
        converted = invad_pytorch.read_folder(path, args.which, hints, args.latent_size)
    elif args.source == "guided-diffusion":
        converted = guided_diffusion.read_file(path, hints, args.latent_size, args.class_label)
    elif args.source in DETECTORS:
        text = to_path(args.text) if args.text else None
        converted = rivals.read_file(args.source, path, hints, args.latent_size, text)
    else:
        converted = diffusers_folder.read_folder(path, args.latent_size, args.class_label)
    if isinstance(converted, ConvertedVAE):
        if args.set:
            raise UserError(f"--set {args.set[0]}: a VAE has no options")
        return converted
    as_published = dataclasses.replace(converted.config.denoiser, dtype="float32")
    config = dataclasses.replace(converted.config, denoiser=as_published)
    config = config_io.override(config, args.set)
    if dataclasses.replace(config.denoiser, dtype="float32") != as_published:
        raise UserError("--set denoiser.*: the sizes are those of the tensors")
    check_outputs(config, converted.latent_shape)
    return dataclasses.replace(converted, config=config)


def write_workdir(workdir: Workdir, converted: Converted, origin: str) -> None:
    """A checkpoint at step 0, what was kept aside, and last the config, which readers look for."""
    import jax.numpy as jnp

    from invad_jax.detector import LatentStats
    from invad_jax.runtime import processes
    from invad_jax.runtime.checkpoint import Checkpoints

    channels = converted.latent_shape[-1]
    model = {
        "params": converted.params,
        "ema_params": converted.ema_params,
        "frozen": LatentStats(jnp.zeros(channels), jnp.ones(channels)),
    }
    meta = {
        "config": to_dict(converted.config),
        "config_hash": config_hash(converted.config),
        "versions": processes.versions(),
        "converted_from": origin,
        "dataset": None,
        "encoder": None,
        "latent_shape": list(converted.latent_shape),
    }
    with Checkpoints(workdir.checkpoints) as checkpoints:
        checkpoints.save_model(0, model, meta)
    for name, tensors in converted.kept_tensors.items():
        write_tensors(_kept(workdir, name), tensors)
    if converted.kept_text:
        files.write_text(workdir.kept / SETTINGS, converted.kept_text)
    workdir.claim(converted.config, write=True)
    workdir.close()


def write_vae(folder: Path, converted: ConvertedVAE, origin: str) -> None:
    """What `train_vae` leaves for an encoder; the file that it reads is last."""
    files.write_json(folder / "vae.json", converted.summary | {"converted_from": origin})
    write_tensors(folder / "vae.safetensors", converted.state)


def read_workdir(workdir: Workdir) -> Converted:
    """A workdir, trained here or converted."""
    config = workdir.read_config()
    from invad_jax.inference.load import restore
    from invad_jax.runtime.sharding import make_mesh

    restored = restore(workdir, config, make_mesh(MeshConfig()))
    settings = workdir.kept / SETTINGS
    return Converted(
        config=config,
        latent_shape=restored.latent_shape,
        params=restored.params,
        ema_params=restored.ema_params,
        kept_tensors={
            name: read_tensors(_kept(workdir, name))
            for name in ("params", "ema_params")
            if _kept(workdir, name).exists()
        },
        kept_text=files.read_bytes(settings).decode() if settings.exists() else "",
    )


def _kept(workdir: Workdir, name: str) -> Path:
    return workdir.kept / f"unused_{name}.safetensors"


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.in_buckets.update(("input", "output", "text"))
    add = parser.add_argument
    add("--from", dest="source", choices=SOURCES, help="the code base that made the input")
    add("--input", metavar="PATH", help="its folder or file")
    add("--to", dest="target", choices=TARGETS, help="write a workdir for this code base")
    add("--output", metavar="DIR", help="where to write with --to")
    add("--workdir", metavar="DIR", help="new with --from; an existing one with --to")
    add(
        "--which",
        choices=tuple(FILES),
        help="which file of the folder is evaluated; default the first of latest, best, ema",
    )
    add(
        "--num-heads",
        type=int,
        metavar="N",
        help="attention heads of a DiT, default 8; of a U-Net that has as many on all levels",
    )
    add("--head-channels", type=int, metavar="N", help="channels of a U-Net's attention head")
    add(
        "--class-label",
        type=int,
        metavar="N",
        help="class that a class-conditional model shall take every image for",
    )
    add(
        "--latent-size",
        type=int,
        metavar="N",
        help="side of the latent grid, where neither tensors nor settings tell it",
    )
    add("--text", metavar="FILE", help="with diad: the vectors of its prompt, (1, tokens, width)")
    parser.add_set("change one option of the workdir's config, such as data.root or encoder.name")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
