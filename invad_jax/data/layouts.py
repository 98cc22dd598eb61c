"""Data sets as they lie on disk -> lists of samples.

A layout is a function from `data.root` to the categories it finds there; `LAYOUTS` names them all.
Only folder listings and tables are read here. Read next: `preprocess.py` for the images themselves.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from invad_jax.config import DataConfig
from invad_jax.data import copies, names, records
from invad_jax.data.categories import split_dataset, unsplit_dataset
from invad_jax.data.dataset import (
    Categories,
    Dataset,
    Sample,
    content_hash,
    fingerprint,
    hold_out,
    report_left_out,
    some,
)
from invad_jax.data.folders import subfolders
from invad_jax.data.real_iad import real_iad_categories
from invad_jax.data.samples import hazelnut_root, procedural_root
from invad_jax.data.tables import table_categories, visa_categories
from invad_jax.errors import UserError, what_there_is
from invad_jax.io.paths import to_path

__all__ = [
    "LAYOUTS",
    "Dataset",
    "Sample",
    "content_hash",
    "fingerprint",
    "hold_out",
    "load_dataset",
]

log = logging.getLogger(__name__)


def load_dataset(cfg: DataConfig) -> Dataset:
    """Lists the images of the configured categories, sorted by category.

    Raises:
      UserError: a folder, table, category or training image that is missing or wrong.
    """
    if cfg.name not in LAYOUTS:
        raise UserError(f"data.name={cfg.name}: unknown{what_there_is(cfg.name, LAYOUTS)}")
    categories = LAYOUTS[cfg.name](cfg.root)
    wanted = sorted(categories if "all" in cfg.categories else set(cfg.categories))
    for name in wanted:
        if name not in categories:
            near = what_there_is(name, categories)
            if any("," in category for category in categories):
                near += "; put a name with a comma in quotes: data.categories='\"a, b\"'"
            raise UserError(f"data.categories={name}: not found in {cfg.root or cfg.name}{near}")
    parts = [categories[name]() for name in wanted]
    left_out = tuple(file for part in parts for file in part.left_out)
    test = tuple(sample for part in parts for sample in part.test)
    found = copies.find([sample for part in parts for sample in part.train], test)
    dataset = Dataset(found.train, test, (*left_out, *found.copied))
    _check_names(dataset)
    _report(dataset)
    if found.tested:
        named = some(found.tested)
        log.warning("test images that are training images too: %d (%s)", len(found.tested), named)
    return dataset


def _check_names(dataset: Dataset) -> None:
    samples = (*dataset.train, *dataset.test)
    for category in sorted({sample.category for sample in samples}):
        names.check(category, "category")
    for defect in sorted({sample.defect for sample in samples}):
        names.check(defect, "defect")
    for sample in samples:
        names.check_path(sample.path)


def _report(dataset: Dataset) -> None:
    """Says what is not used, and how many masks there are: names that do not fit show here."""
    report_left_out(dataset.left_out)
    anomalous = [sample for sample in dataset.test if sample.gt_label]
    without = [sample.path for sample in anomalous if not sample.mask_paths]
    if without:
        log.info(
            "anomalous images: %d with masks, %d without: %s",
            len(anomalous) - len(without),
            len(without),
            some(without),
        )


def _existing_folder(root: str) -> Path:
    folder = to_path(root).expanduser()
    if not root or not folder.is_dir():
        raise UserError(f"data.root={root}: no such folder")
    return folder


def _split_categories(root: str) -> Categories:
    """The folder itself if it is one category, else every folder in it that is one."""
    folder = _existing_folder(root)
    if _is_split(folder):
        return _single(folder, split_dataset)
    inner = subfolders(folder)
    categories = [path for path in inner if _is_split(path)]
    if not categories:
        raise UserError(
            f"data.root={root}: no category found (a folder with train/good in it); images of a "
            "single product may lie in a plain folder: data.name=folder"
        )
    others = [path.name for path in inner if path not in categories]
    if others:
        log.info("%s: no categories, since there is no train in them: %s", root, some(others))
    return {path.name: partial(split_dataset, path, path.name) for path in categories}


def _is_split(folder: Path) -> bool:
    """Whether there is a folder of training images in it, as far as it may be listed."""
    try:
        inner = subfolders(folder)
    except PermissionError as error:
        if folder.name != "lost+found":  # of the disk
            log.warning("left out: %s: cannot be listed: %s", folder, error.strerror)
        return False
    return any(names.SPLITS.get(names.plain(path.name)) == "train" for path in inner)


def _folder(root: str) -> Categories:
    """One product: `train` and `test`, or `good` beside folders of anomalous images."""
    folder = _existing_folder(root)
    if _is_split(folder):
        return _single(folder, split_dataset)
    inner = subfolders(folder)
    categories = [path for path in inner if _is_split(path)]
    if categories:
        raise UserError(
            f"data.root={root}: holds categories ({', '.join(p.name for p in categories)}); use "
            f"data.name=mvtec, or data.root={categories[0]} for one of them"
        )
    if any(names.SPLITS.get(names.plain(path.name)) == "test" for path in inner):
        raise UserError(f"{folder}: has test but no train; expected {folder / 'train' / 'good'}")
    return _single(folder, unsplit_dataset)


def _prepared(root: str) -> Categories:
    """What `build_dataset` wrote: the samples of another layout, in its order, as records."""
    root = str(to_path(root).expanduser()) if root else ""
    rows = records.listing(root)
    names = dict.fromkeys(row["category"] for split in rows.values() for row in split)
    return {name: partial(_prepared_dataset, root, name) for name in names}


def _prepared_dataset(root: str, category: str) -> Dataset:
    def samples(split: str) -> tuple[Sample, ...]:
        path_of = partial(records.path_of, root, split)
        return tuple(
            Sample(
                path_of(row["path"]),
                category,
                row["defect"],
                row["label"],
                (path_of(row["mask"]),) if row["mask"] else (),
            )
            for row in records.listing(root).get(split, [])
            if row["category"] == category
        )

    return Dataset(samples("train"), samples("test"))


def _fetched(fetch: Callable[[], Path], root: str) -> Categories:
    """A sample set that fetches itself."""
    if root:
        raise UserError(
            f"data.root={root}: a sample set takes no root; for your own images set data.name to "
            "folder, mvtec or csv"
        )
    return _split_categories(str(fetch()))


LAYOUTS: dict[str, Callable[[str], Categories]] = {
    "mvtec": _split_categories,
    "folder": _folder,
    "csv": table_categories,
    "visa": visa_categories,
    "real_iad": real_iad_categories,
    "bmad": _split_categories,
    "tfds": _prepared,
    "hazelnut": partial(_fetched, hazelnut_root),
    "procedural": partial(_fetched, procedural_root),
}
"""Every layout by its `data.name`: a function from `data.root` to the categories found there."""


def _single(folder: Path, dataset: Callable[[Path, str], Dataset]) -> Categories:
    name = os.path.basename(os.path.abspath(folder))  # resolve() would follow a link
    return {name: partial(dataset, folder, name)}
