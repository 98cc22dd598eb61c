"""Fetches a detector that `push` has put on the Hugging Face hub.

    python -m invad_jax.pull --repo owner/hazelnut --out runs/hazelnut

Nothing of it is run, and files that are no part of a detector are not fetched. Training cannot go
on from it. Needs the extra [hub]: pip install "invad-jax[hub]".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from invad_jax.errors import UserError
from invad_jax.io import files, hub
from invad_jax.runtime import cli as command_line


def main(args: argparse.Namespace) -> None:
    """From a repository to a workdir, or a folder with a bundle."""
    if not args.repo or not args.out:
        raise UserError("give --repo owner/name and --out DIR")
    from invad_jax.inference import staging

    with files.new_folder(args.out) as folder:
        hub.pull(args.repo, args.revision, folder)
        bundle = next(folder.glob("*.invad"), None)
        if (folder / "config.json").is_file():
            staging.forget_paths(folder)
            bundle = None
    model = Path(args.out, bundle.name) if bundle else args.out
    print(f"next: python -m invad_jax.predict --model {model} --input IMAGES --out FOLDER")


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_argument("--repo", metavar="OWNER/NAME", help="of models")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit; default main")
    parser.add_argument("--out", metavar="DIR", help="a new folder")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
