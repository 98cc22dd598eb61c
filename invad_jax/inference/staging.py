"""What of a workdir goes to others: what scoring needs, without paths of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from invad_jax.errors import UserError
from invad_jax.inference.kept import SCORES
from invad_jax.io import files, hub
from invad_jax.runtime import seals
from invad_jax.runtime.workdir import Workdir


def stage(workdir: Workdir, step: int, folder: Path) -> None:
    """Makes a folder of links to the files, and of copies of those that name paths.

    Args:
      workdir: trained; its checkpoint was read, and so is whole.
      step: of the checkpoint.
      folder: empty.
    """
    for path in _needed(workdir, step):
        target = folder / path.relative_to(workdir.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name == seals.MARKER:
            target.touch()
        elif path.name in (SCORES, workdir.config.name) or path.parent.name == "meta":
            files.write_json(target, _without_paths(files.read_json(path)))
        else:
            target.symlink_to(path.absolute())
    seals.seal(folder / "checkpoints" / str(step))


def forget_paths(folder: Path) -> None:
    """Takes paths out of a workdir that somebody else may have made: they are not of this machine.

    Args:
      folder: of the workdir.

    Raises:
      UserError: it is none.
    """
    for path in (folder / Workdir(folder).config.name, *folder.glob(f"normals/**/{SCORES}")):
        try:
            files.write_json(path, _without_paths(files.read_json(path)))
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path.relative_to(folder)}: not what a workdir holds") from error


def _needed(workdir: Workdir, step: int) -> Iterator[Path]:
    """The parts of a detector, of its newest checkpoint alone, and nothing of its optimiser.

    A bundle that lies in the workdir is a detector of its own, with photographs: it stays.
    """
    for path in sorted(path for path in workdir.path.rglob("*") if path.is_file()):
        name = path.relative_to(workdir.path)
        if name.parts[0] == "checkpoints":
            others = "optimizer", "data", seals.SEAL
            wanted = name.parts[1:2] == (str(step),) and name.parts[2] not in others
        else:
            wanted = any(fnmatch(str(name), part) for part in hub.OF_WORKDIR)
        if wanted:
            yield path


def _without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config, or what a file holds of one and of images."""
    kept = dict(values)
    if "path" in kept:
        kept["path"] = [Path(one).name for one in kept["path"]]
    if "config" in kept:
        kept["config"] = _without_paths(kept["config"])
    if "data" in kept:
        region = "region.png" if kept["data"].get("region") else ""
        kept["data"] = {**kept["data"], "root": "", "region": region}
    return kept
