"""Says what this machine can do: versions, devices, memory, weights, how long training takes.

    python -m invad_jax.doctor
    python -m invad_jax.doctor --images 200 --config configs/folder.py

With --images it compiles and times what the training of a config runs (default: our own), on zeros.
Leaves with status 0, or 1 if something has to be mended first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

from invad_jax.config import Config
from invad_jax.runtime import cli as command_line


def main(args: argparse.Namespace) -> int:
    """Prints what there is; lines that begin with `!` are to be mended."""
    import jax

    from invad_jax.config import DataConfig
    from invad_jax.config import io as config_io
    from invad_jax.config.ours import our_config
    from invad_jax.runtime import memory, processes

    config = config_io.load(args.config) if args.config else our_config(DataConfig())
    config = config_io.override(config, args.set)
    device = processes.device_summary()
    lines = [
        ", ".join(f"{name} {version}" for name, version in processes.versions().items()),
        f"{device['count']} x {device['kind']} ({device['platform']}), "
        f"{os.cpu_count()} CPU cores, {memory.host_bytes() / 1e9:.3g} GB of memory free",
    ]
    if jax.default_backend() == "gpu":
        lines[-1] += f", {memory.free_bytes() / 1e9:.3g} GB on the device"
    print("\n".join(lines))
    faults = _cache()
    _say_weights(config.encoder.name)
    for fault in faults:
        print(f"! {fault}")
    if args.images is not None:
        _forecast(config, args.images)
    return int(bool(faults))


def _cache() -> list[str]:
    """Whether there is a place for weights and latents."""
    from invad_jax.errors import UnavailableError, UserError
    from invad_jax.io.downloads import shared_cache_dir
    from invad_jax.io.files import replaced
    from invad_jax.io.paths import is_remote

    folder = shared_cache_dir()
    try:
        with replaced(folder / "doctor") as temporary:
            temporary.write_bytes(b"x")
        (folder / "doctor").unlink()
    except (UserError, UnavailableError, OSError) as error:
        return [f"cache: {error}; set INVAD_CACHE to a folder that can be written"]
    if is_remote(folder):
        print(f"cache: {folder}")
        return []
    print(f"cache: {folder}, {shutil.disk_usage(folder).free / 1e9:.3g} GB free")
    return []


def _say_weights(wanted: str) -> None:
    """Which encoders are here, and whether the wanted one can be fetched at all."""
    from invad_jax.encoders.sources import SOURCES, WITHOUT_WEIGHTS
    from invad_jax.io.downloads import shared_cache_dir

    here = [
        name
        for name, source in SOURCES.items()
        if (shared_cache_dir() / "weights" / name / source.file).is_file()
    ]
    print(f"weights here: {', '.join(here) or 'none'}; of {len(SOURCES)} that can be fetched")
    if wanted in WITHOUT_WEIGHTS:
        print(f"encoder {wanted}: needs no weights")
    elif wanted not in SOURCES:
        print(f"encoder {wanted}: has no published weights; give its file as encoder.weights")
    elif wanted not in here:
        print(f"encoder {wanted}: will be fetched when it is first used, which takes a network")


def _forecast(config: Config, images: int) -> None:
    from invad_jax.planning.forecast import forecast
    from invad_jax.runtime.sharding import make_mesh
    from invad_jax.training.loop import duration

    found = forecast(config, make_mesh(config.mesh))
    print(
        f"training {images} images: about {duration(found.seconds(images))}: "
        f"{found.steps} steps of {1000 * found.seconds_a_step:.3g} ms, "
        f"{1000 * found.seconds_an_image:.3g} ms an image, {found.compiling:.2g} s of compiling"
    )


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_config("configs/X.py; default: our own, as configs/folder.py")
    parser.add_argument("--images", type=int, metavar="N", help="forecast the training of so many")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
