"""Puts a detector on the Hugging Face hub, with a model card made of the run.

    python -m invad_jax.push --model runs/hazelnut --repo owner/hazelnut
    python -m invad_jax.push --model part.invad --repo owner/part --public

A workdir goes as it is, without what only training needs and without the paths of its images; a
bundle as its one file. A repository that is made is private unless --public says otherwise: a
bundle holds photographs, unless it was exported with --no-photographs.

Needs the extra [hub]: pip install "invad-jax[hub]", and a token: HF_TOKEN, or `hf auth login`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invad_jax.errors import UserError
from invad_jax.runtime import cli as command_line
from invad_jax.runtime.workdir import Workdir


def main(args: argparse.Namespace) -> None:
    """From a workdir or a bundle to a repository."""
    if not args.model or not args.repo:
        raise UserError("give --model DIR_OR_FILE and --repo owner/name")
    source = Path(args.model)
    from invad_jax.io import files, hub
    from invad_jax.report.card import model_card

    with tempfile.TemporaryDirectory(prefix="invad_jax-") as name:
        folder = Path(name)
        bundle = source.with_suffix(".invad").name if source.is_file() else ""
        about = _bundle(source, folder / bundle) if bundle else _workdir(source, folder)
        card = model_card(about, bundle)
        files.write_text(folder / hub.CARD, card)
        print(f"{source}: is at {hub.push(folder, args.repo, args.public)}")


def _bundle(source: Path, target: Path) -> dict[str, Any]:
    """Checks a bundle and puts it there; what its `model.json` says."""
    from invad_jax.inference.bundle import BundleModel

    about: dict[str, Any] = BundleModel(source).about
    target.symlink_to(source.absolute())
    return about


def _workdir(source: Path, folder: Path) -> dict[str, Any]:
    """Checks that a workdir is trained and calibrated, and puts there what scoring needs of it."""
    from invad_jax.inference import packing, staging

    workdir = Workdir(source)
    about = packing.describe(workdir, workdir.resolve(None, []))
    staging.stage(workdir, about["step"], folder)
    return about


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_model()
    parser.in_buckets.discard("model")  # the hub's library reads files of this machine
    parser.add_argument("--repo", metavar="OWNER/NAME", help="of models; made if it is not there")
    parser.add_argument("--public", action="store_true", help="can be seen by all, if it is made")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
