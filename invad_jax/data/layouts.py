"""Data sets as they lie on disk -> lists of samples.

A layout is a function from `data.root` to the categories it finds there; `LAYOUTS` names them all.
Only folder listings and tables are read here. Read next: `preprocess.py` for the images themselves.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from invad_jax.config import DataConfig
from invad_jax.data import mask_files, names, records
from invad_jax.data.dataset import (
    Categories,
    Dataset,
    LeftOut,
    Sample,
    content_hash,
    fingerprint,
    hold_out,
    some,
)
from invad_jax.data.folders import File, Listing, list_files, subfolders
from invad_jax.data.real_iad import real_iad_categories
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

log = logging.getLogger(__name__)

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
            if any("," in category for category in categories):
                near += "; put a name with a comma in quotes: data.categories='\"a, b\"'"
            raise UserError(f"data.categories={name}: not found in {cfg.root or cfg.name}; {near}")
    parts = [categories[name]() for name in wanted]
    dataset = Dataset(
        train=tuple(sample for part in parts for sample in part.train),
        test=tuple(sample for part in parts for sample in part.test),
        left_out=tuple(file for part in parts for file in part.left_out),
    )
    _check_names(dataset)
    _report(dataset)
    return dataset


def _check_names(dataset: Dataset) -> None:
    for sample in (*dataset.train, *dataset.test):
        names.check(sample.path, "image")
        names.check(sample.category, "category")
        names.check(sample.defect, "defect")


def _report(dataset: Dataset) -> None:
    """Says what is not used, and how many masks there are: names that do not fit show here."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for reason, path in dataset.left_out:
        by_reason[reason].append(path)
    for reason, paths in by_reason.items():
        log.info("left out, %s: %d (%s)", reason, len(paths), some(sorted(paths)))
    anomalous = [sample for sample in dataset.test if sample.gt_label]
    without = [sample.path for sample in anomalous if not sample.mask_paths]
    if without:
        log.info(
            "anomalous images: %d with masks, %d without: %s",
            len(anomalous) - len(without), len(without), some(without),
        )  # fmt: skip


def _existing_folder(root: str) -> Path:
    folder = Path(root).expanduser()
    if not root or not folder.is_dir():
        raise UserError(f"data.root={root}: no such folder")
    return folder


def _split_categories(root: str) -> Categories:
    """The folder itself if it is one category, else every folder in it that is one."""
    folder = _existing_folder(root)
    if _is_split(folder):
        return _single(folder, _split_dataset)
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
    return {path.name: partial(_split_dataset, path, path.name) for path in categories}


def _is_split(folder: Path) -> bool:
    """Whether there is a folder of training images in it."""
    return any(names.SPLITS.get(names.plain(path.name)) == "train" for path in subfolders(folder))


def _folder(root: str) -> Categories:
    """One product: `train` and `test`, or `good` beside folders of anomalous images."""
    folder = _existing_folder(root)
    if _is_split(folder):
        return _single(folder, _split_dataset)
    inner = subfolders(folder)
    categories = [path for path in inner if _is_split(path)]
    if categories:
        raise UserError(
            f"data.root={root}: holds categories ({', '.join(p.name for p in categories)}); use "
            f"data.name=mvtec, or data.root={categories[0]} for one of them"
        )
    if any(names.SPLITS.get(names.plain(path.name)) == "test" for path in inner):
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
                (path_of(row["mask"]),) if row["mask"] else (),
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


def _split_dataset(folder: Path, category: str) -> Dataset:
    """`train` holds normal images, in `good` or directly; `test` holds a folder a defect."""
    listing = list_files(folder, split=True)
    train = [file for file in listing.images if file.split == "train"]
    test = [file for file in listing.images if file.split == "test"]
    for file in train:
        if defect_of(file) not in ("good", None):
            above = folder / file.folders[0]
            raise UserError(
                f"{above / file.labels[0]}: anomalous images cannot be trained on; expected only "
                f"{above / 'good'}"
            )
    if not train:
        raise UserError(f"{folder / 'train'}: no normal images in it or in its folder good")
    for file in test:
        if defect_of(file) is None:
            above = folder / file.folders[0]
            raise UserError(
                f"{above}: images directly in it have no label; put them in {above / 'good'} or "
                f"{above / 'DEFECT'}, or score them with predict"
            )
    return _dataset(category, train, test, listing)


def _unsplit_dataset(folder: Path, category: str) -> Dataset:
    """Folders of normal and of anomalous images, or nothing but normal ones, directly.

    Where there are anomalous ones, a part of the normal ones is kept for the test.
    """
    listing = list_files(folder, split=False)
    by_defect = {file: defect_of(file) for file in listing.images}
    normal = [file for file, defect in by_defect.items() if defect == "good"]
    anomalous = [file for file, defect in by_defect.items() if defect not in ("good", None)]
    unlabelled = [file for file, defect in by_defect.items() if defect is None]
    if not normal and not anomalous:
        normal, unlabelled = unlabelled, []
    if not normal:
        raise UserError(
            f"data.root={folder}: no normal images; expected them in train/good, or in good beside "
            "folders of anomalous images, or nothing but normal images in the folder itself"
        )
    reason = "images without a label, not in a folder such as good"
    listing.left_out.extend(LeftOut(reason, file.path) for file in unlabelled)
    dataset = _dataset(category, normal, anomalous, listing)
    if not anomalous:
        return dataset
    train, normal_test = hold_out(dataset.train, UNSPLIT_TEST_FRACTION)
    return dataclasses.replace(dataset, train=train, test=normal_test + dataset.test)


def _dataset(
    category: str, train: Sequence[File], test: Sequence[File], listing: Listing
) -> Dataset:
    """Samples, and the masks of the anomalous ones."""
    defect = {file: defect_of(file) or "good" for file in (*train, *test)}
    anomalous = [file for file in test if defect[file] != "good"]
    normal = [*train, *(file for file in test if defect[file] == "good")]
    masks = [mask for mask in listing.masks if mask.split != "train"]  # there all is normal
    matches = mask_files.match(anomalous, normal, masks)
    left_out = [
        *listing.left_out,
        *(LeftOut("masks that could be of several images", path) for path in matches.ambiguous),
        *(LeftOut("masks that are of no image", path) for path in matches.unmatched),
    ]

    def sample(file: File) -> Sample:
        label = int(defect[file] != "good")
        masks = matches.masks.get(file.path, ())
        return Sample(file.path, category, defect[file], label, masks)

    return Dataset(tuple(map(sample, train)), tuple(map(sample, test)), tuple(left_out))


def defect_of(file: File) -> str | None:
    """The name of the defect, `good` for normal; None where no folder says."""
    if any(map(names.is_normal, file.labels)):
        return "good"
    if len(file.labels) > 1 and names.plain(file.labels[0]) in names.ANOMALOUS:
        return file.labels[1]
    return file.labels[0] if file.labels else None


def _nearest(name: str, candidates: Iterable[str]) -> str:
    known = sorted(candidates)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(known)}"
