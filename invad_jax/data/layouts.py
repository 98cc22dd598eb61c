"""Data sets as they lie on disk -> lists of samples.

A layout is a function from `data.root` to the categories it finds there; `LAYOUTS` names them all.
Only folder listings and tables are read here. Read next: `preprocess.py` for the images themselves.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from invad_jax.config import DataConfig
from invad_jax.data import records
from invad_jax.data.dataset import (
    Categories,
    Dataset,
    Sample,
    content_hash,
    fingerprint,
    hold_out,
    is_normal,
)
from invad_jax.data.preprocess import image_paths
from invad_jax.data.samples import hazelnut_root, procedural_root
from invad_jax.data.tables import table_categories, visa_categories
from invad_jax.errors import UserError

__all__ = [
    "LAYOUTS",
    "Dataset",
    "Sample",
    "content_hash",
    "fingerprint",
    "hold_out",
    "load_dataset",
]

UNSPLIT_TEST_FRACTION = 0.2
"""Share of the normals kept for the test where a plain folder has no split."""


def load_dataset(cfg: DataConfig) -> Dataset:
    """Lists the images of the configured categories, sorted by category.

    Raises:
      UserError: a folder, table, category or training image that is missing or wrong.
    """
    if cfg.name not in LAYOUTS:
        raise UserError(f"data.name={cfg.name}: unknown; {_nearest(cfg.name, LAYOUTS)}")
    categories = LAYOUTS[cfg.name](cfg.root)
    wanted = sorted(categories if "all" in cfg.categories else set(cfg.categories))
    for name in wanted:
        if name not in categories:
            near = _nearest(name, categories)
            raise UserError(f"data.categories={name}: not found in {cfg.root or cfg.name}; {near}")
    parts = [categories[name]() for name in wanted]
    return Dataset(
        train=tuple(sample for part in parts for sample in part.train),
        test=tuple(sample for part in parts for sample in part.test),
    )


def _mvtec(root: str) -> Categories:
    """`CATEGORY/train/good`, `CATEGORY/test/DEFECT`, `CATEGORY/ground_truth/DEFECT`."""
    return _split_categories(root, _mvtec_dataset)


def _bmad(root: str) -> Categories:
    """`SET/train/good`, `SET/test/good`, `SET/test/Ungood`, and what is not read: `SET/valid`."""
    return _split_categories(root, _bmad_dataset)


def _folder(root: str) -> Categories:
    """One product: `train` and `test`, or `good` beside folders of anomalous images."""
    folder = _existing_folder(root)
    if (folder / "train").is_dir():
        return _single(folder, _mvtec_dataset)
    categories = _with_train_good(folder)
    if categories:
        raise UserError(
            f"data.root={root}: holds categories ({', '.join(p.name for p in categories)}); use "
            f"data.name=mvtec, or data.root={categories[0]} for one of them"
        )
    if (folder / "test").is_dir():
        raise UserError(f"{folder}: has test but no train; expected {folder / 'train' / 'good'}")
    return _single(folder, _unsplit_dataset)


def _prepared(root: str) -> Categories:
    """What `build_dataset` wrote: the samples of another layout, in its order, as records."""
    root = str(Path(root).expanduser()) if root else ""
    rows = records.listing(root)
    names = dict.fromkeys(row["category"] for split in rows.values() for row in split)
    return {name: partial(_prepared_dataset, root, name) for name in names}


def _prepared_dataset(root: str, category: str) -> Dataset:
    def samples(split: str) -> tuple[Sample, ...]:
        path_of = partial(records.path_of, root, split)
        return tuple(
            Sample(
                path_of(row["path"]), category, row["defect"], row["label"],
                path_of(row["mask"]) if row["mask"] else None,
            )
            for row in records.listing(root).get(split, [])
            if row["category"] == category
        )  # fmt: skip

    return Dataset(samples("train"), samples("test"))


def _fetched(fetch: Callable[[], Path], root: str) -> Categories:
    """A sample set that fetches itself."""
    if root:
        raise UserError(
            f"data.root={root}: a sample set takes no root; for your own images set data.name to "
            "folder, mvtec or csv"
        )
    return _mvtec(str(fetch()))


LAYOUTS: dict[str, Callable[[str], Categories]] = {
    "mvtec": _mvtec,
    "folder": _folder,
    "csv": table_categories,
    "visa": visa_categories,
    "bmad": _bmad,
    "tfds": _prepared,
    "hazelnut": partial(_fetched, hazelnut_root),
    "procedural": partial(_fetched, procedural_root),
}
"""Every layout by its `data.name`: a function from `data.root` to the categories found there."""


def _existing_folder(root: str) -> Path:
    folder = Path(root).expanduser()
    if not root or not folder.is_dir():
        raise UserError(f"data.root={root}: no such folder")
    return folder


def _split_categories(root: str, dataset: Callable[[Path, str], Dataset]) -> Categories:
    """The folder itself if it is one category, else every folder in it that is one."""
    folder = _existing_folder(root)
    if (folder / "train" / "good").is_dir():
        return _single(folder, dataset)
    categories = _with_train_good(folder)
    if not categories:
        raise UserError(
            f"data.root={root}: no category found (a folder with train/good in it); images of a "
            "single product may lie in a plain folder: data.name=folder"
        )
    return {path.name: partial(dataset, path, path.name) for path in categories}


def _with_train_good(folder: Path) -> list[Path]:
    return [path for path in _subfolders(folder) if (path / "train" / "good").is_dir()]


def _subfolders(folder: Path) -> list[Path]:
    """Visible ones, sorted."""
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _single(folder: Path, dataset: Callable[[Path, str], Dataset]) -> Categories:
    name = os.path.basename(os.path.abspath(folder))  # resolve() would follow a link
    return {name: partial(dataset, folder, name)}


ImagesOf = Callable[[Path], list[str]]
"""A folder of one defect, or of normal images -> the images in it, sorted."""
MasksOf = Callable[[Path, str], dict[str, str]]
"""Folder of a category, defect -> the masks, by the stem of their image."""


def _mvtec_dataset(folder: Path, category: str) -> Dataset:
    return _split_dataset(folder, category, image_paths, _ground_truth)


def _bmad_dataset(folder: Path, category: str) -> Dataset:
    return _split_dataset(folder, category, _bmad_images, _bmad_masks)


def _split_dataset(folder: Path, category: str, images: ImagesOf, masks: MasksOf) -> Dataset:
    """`train` holds normal images, in `good` or directly; `test` holds a folder a defect."""
    train, groups = folder / "train", _groups(folder / "train", images)
    anomalous = [name for name in groups if not is_normal(name)]
    if anomalous:
        raise UserError(
            f"{train / anomalous[0]}: anomalous images cannot be trained on; expected only "
            f"{train / 'good'}"
        )
    normal = image_paths(train) + [path for paths in groups.values() for path in paths]
    if not normal:
        raise UserError(f"{train}: no normal images in it or in its folder good")
    test = folder / "test"
    if test.is_dir() and image_paths(test):
        raise UserError(
            f"{test}: images directly in it have no label; put them in {test / 'good'} or "
            f"{test / 'DEFECT'}, or score them with predict"
        )
    tested = _test_samples(folder, category, _groups(test, images), masks)
    return Dataset(_samples(normal, category), tested)


def _unsplit_dataset(folder: Path, category: str) -> Dataset:
    """`good` and folders of anomalous images; a part of the good ones is kept for the test."""
    groups = _groups(folder, image_paths)
    groups.pop("ground_truth", None)
    normal = [path for name in groups if is_normal(name) for path in groups[name]]
    if not normal:
        raise UserError(
            f"data.root={folder}: no normal images; expected them in train/good, or in good beside "
            "folders of anomalous images"
        )
    anomalous = {name: paths for name, paths in groups.items() if not is_normal(name)}
    train = _samples(normal, category)
    test = _test_samples(folder, category, anomalous, _ground_truth)
    if test:
        train, normal_test = hold_out(train, UNSPLIT_TEST_FRACTION)
        test = normal_test + test
    return Dataset(train, test)


def _groups(folder: Path, images: ImagesOf) -> dict[str, list[str]]:
    """The images of each subfolder that has some, by its name; none if there is no `folder`."""
    subfolders = _subfolders(folder) if folder.is_dir() else []
    return {path.name: paths for path in subfolders if (paths := images(path))}


def _samples(paths: Iterable[str], category: str) -> tuple[Sample, ...]:
    return tuple(Sample(path, category, "good", 0) for path in paths)


def _test_samples(
    folder: Path, category: str, groups: dict[str, list[str]], masks: MasksOf
) -> tuple[Sample, ...]:
    """Normal and anomalous samples, with the masks that there are."""
    samples: list[Sample] = []
    for defect, paths in groups.items():
        if is_normal(defect):
            samples += _samples(paths, category)
            continue
        mask_of = masks(folder, defect)
        samples += [Sample(p, category, defect, 1, mask_of.get(Path(p).stem)) for p in paths]
    return tuple(samples)


def _ground_truth(folder: Path, defect: str) -> dict[str, str]:
    """The masks in `ground_truth/DEFECT`, named `STEM_mask` or `STEM`."""
    ground_truth = folder / "ground_truth"
    if ground_truth.is_dir() and image_paths(ground_truth):
        raise UserError(f"{ground_truth}: masks directly in it; expected {ground_truth / 'DEFECT'}")
    masks = _by_stem(ground_truth / defect)
    return masks | {
        stem.removesuffix("_mask"): m for stem, m in masks.items() if stem.endswith("_mask")
    }


def _bmad_images(folder: Path) -> list[str]:
    """Directly in it or, where masks lie beside them, in `img`."""
    inner = folder / "img"
    return image_paths(folder) + (image_paths(inner) if inner.is_dir() else [])


def _bmad_masks(folder: Path, defect: str) -> dict[str, str]:
    """Three of the six sets have some."""
    return _by_stem(folder / "test" / defect / "label")


def _by_stem(folder: Path) -> dict[str, str]:
    return {Path(path).stem: path for path in image_paths(folder)} if folder.is_dir() else {}


def _nearest(name: str, candidates: Iterable[str]) -> str:
    names = sorted(candidates)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(names)}"
