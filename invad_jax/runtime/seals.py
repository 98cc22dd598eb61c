"""What the files of a checkpoint are, so that a change of them is seen.

What happens to a step after it is committed orbax sees only in part: a flipped bit inside an array
comes back as another number. So a step also holds `seal.json`, the SHA-256 of its files.
"""

from __future__ import annotations

import json
from pathlib import Path

from invad_jax.io import files
from invad_jax.io.paths import scan

SEAL = "seal.json"
MARKER = "commit_success.txt"
"""Orbax writes it into a part after the seal is made and, in a bucket, last of all into the step;
on a disk it renames the step."""


def seal(folder: Path) -> None:
    """Writes the seal of a step whose files are all there."""
    items = [path.name for path, is_folder in scan(folder) if is_folder]
    digests = {item: files.digests(folder / item, skip=(MARKER,)) for item in items}
    files.write_json(folder / SEAL, digests)


def fault(folder: Path, items: tuple[str, ...]) -> str | None:
    """What differs from the seal, or None; a step of an older version has no seal."""
    if not (folder / SEAL).is_file():
        return None
    try:
        whole = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        for item in items:
            found, sealed = files.digests(folder / item, skip=(MARKER,)), whole.get(item, {})
            for name in sorted(found.keys() | sealed.keys()):
                if found.get(name) != sealed.get(name):
                    return f"{item}/{name}: {'other content' if name in found else 'missing'}"
    except (OSError, ValueError, AttributeError, TypeError):
        return f"{SEAL} cannot be read"
    return None
