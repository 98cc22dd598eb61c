"""Real-IAD: a JSON file for each category says which image is in which split, with which mask.

As it is distributed: `realiad_jsons/CATEGORY.json` beside the images in `realiad_1024/CATEGORY`,
`realiad_512`, `realiad_256` or `realiad_raw`; of several the largest but the raw ones is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from invad_jax.data.dataset import Categories, Dataset, Sample
from invad_jax.data.names import is_hidden
from invad_jax.errors import UserError
from invad_jax.io.paths import has_file, note_files, to_path

_TABLES = ("", "realiad_jsons", "realiad_jsons/realiad_jsons")
_IMAGES = ("realiad_1024", "realiad_512", "realiad_256", "realiad_raw", "")


def real_iad_categories(root: str) -> Categories:
    """The categories that there are tables of.

    Raises:
      UserError: none is there.
    """
    folder = to_path(root).expanduser()
    for place in _TABLES if root else ():
        found = (path for path in (folder / place).glob("*.json") if path.is_file())
        tables = sorted(path for path in found if not is_hidden(path.name))
        if tables:
            return {path.stem: partial(_dataset, folder, path) for path in tables}
    raise UserError(
        f"data.root={root}: no such file as realiad_jsons/CATEGORY.json in it, with which Real-IAD "
        "is distributed"
    )


def _dataset(root: Path, table: Path) -> Dataset:
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        normal, prefix = content["meta"]["normal_class"], content["meta"]["prefix"]
        rows = {split: content[split] for split in ("train", "test")}
        places = [root / place / prefix for place in _IMAGES]
        images = next((place for place in places if place.is_dir()), places[0])
        note_files(images)
        train, test = (
            tuple(_sample(row, images, table, normal) for row in rows[split])
            for split in ("train", "test")
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{table}: not a table of Real-IAD: {error!r}") from error
    anomalous = [sample.path for sample in train if sample.gt_label]
    if anomalous:
        raise UserError(f"{table}: {anomalous[0]}: an anomalous image cannot be trained on")
    if not train:
        raise UserError(f"{table}: no normal images in its split train")
    return Dataset(train, test)


def _sample(row: Mapping[str, Any], images: Path, table: Path, normal: str) -> Sample:
    path = images / row["image_path"]
    is_normal = row["anomaly_class"] == normal
    mask = None if is_normal or not row.get("mask_path") else images / row["mask_path"]
    for file in (path, mask):
        if file is not None and not has_file(file):
            raise UserError(f"{table}: {file}: no such file")
    return Sample(
        str(path),
        table.stem,
        "good" if is_normal else str(row["anomaly_class"]),
        int(not is_normal),
        (str(mask),) if mask else (),
    )
