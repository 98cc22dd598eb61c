"""The folder of one category -> its samples: which are normal, and which masks belong to which.

Read next: `folders.py` and `mask_files.py`, which do the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from invad_jax.config import DataConfig
from invad_jax.data import mask_files, masks, names
from invad_jax.data.dataset import Dataset, LeftOut, Sample, hold_out
from invad_jax.data.folders import File, Listing, list_files
from invad_jax.errors import UserError

UNSPLIT_TEST_FRACTION = 0.2
"""Share of the normals kept for the test where a plain folder has no split."""

Defects = dict[File, str | None]
"""The defect of each file, `good` for normal images, None where nothing says."""


def split_dataset(folder: Path, category: str) -> Dataset:
    """`train` holds normal images, in `good` or directly; `test` holds a folder a defect.

    Raises:
      UserError: anomalous images to train on, none to train on, or images without a label.
    """
    listing = list_files(folder, split=True)
    train, test = (
        _defects(
            [file for file in listing.images if file.split == split],
            [mask for mask in listing.masks if (mask.split == "train") == (split == "train")],
        )
        for split in ("train", "test")
    )
    for file in train:
        if file.labels and not names.is_normal(file.labels[0]):
            above = folder / file.folders[0]
            raise UserError(
                f"{above / file.labels[0]}: anomalous images cannot be trained on; expected only "
                f"{above / 'good'}"
            )
    for file, defect in test.items():
        if defect is None:
            above = folder / file.folders[0]
            raise UserError(
                f"{above}: images directly in it have no label; put them in {above / 'good'} or "
                f"{above / 'DEFECT'}, or score them with predict"
            )
    normal = [file for file, defect in train.items() if defect in ("good", None)]
    if not normal:
        raise UserError(f"{folder / 'train'}: no normal images in it or in its folder good")
    _leave_out(listing, "images to train on whose mask marks something", train, normal)
    return _dataset(category, normal, test, listing)


def unsplit_dataset(folder: Path, category: str) -> Dataset:
    """Folders of normal and of anomalous images, or images directly, of which masks may tell.

    Where there are anomalous ones, a part of the normal ones is kept for the test.

    Raises:
      UserError: no image is known to be normal.
    """
    listing = list_files(folder, split=False)
    _refuse_deeper_split(folder, listing)
    defects = _defects(listing.images, listing.masks)
    if set(defects.values()) == {None}:  # nothing but images, directly
        defects = dict.fromkeys(defects, "good")
    normal = [file for file, defect in defects.items() if defect == "good"]
    anomalous = {file: defect for file, defect in defects.items() if defect not in ("good", None)}
    if not normal:
        raise UserError(
            f"data.root={folder}: no normal images; expected them in train/good, or in good beside "
            "folders of anomalous images, or nothing but normal images in the folder itself"
        )
    reason = "images without a label, not in a folder such as good"
    _leave_out(listing, reason, defects, [*normal, *anomalous])
    dataset = _dataset(category, normal, anomalous, listing)
    if not anomalous:
        return dataset
    train, normal_test = hold_out(dataset.train, UNSPLIT_TEST_FRACTION)
    return dataclasses.replace(dataset, train=train, test=normal_test + dataset.test)


def _refuse_deeper_split(folder: Path, listing: Listing) -> None:
    """Without this, training and test images would be one."""
    for file in listing.images:
        for i, name in enumerate(file.folders):
            if names.SPLITS.get(names.plain(name)) == "train":
                above = folder.joinpath(*file.folders[:i])
                raise UserError(
                    f"{above / name}: {name} lies deeper than data.root={folder}; expected "
                    f"it directly in data.root, as in data.root={above}, or a table, data.name=csv"
                )


def _defects(files: Sequence[File], mask_list: Sequence[File]) -> Defects:
    """What each file is, by its folders; where no folder of any says, by its masks.

    Only then masks are read: an image is anomalous if they mark anything.
    """
    defects = {file: _by_folder(file) for file in files}
    if any(defects.values()) or not mask_list:
        return defects
    found = mask_files.match(files, [], mask_list).masks
    if not found:
        return defects
    marked = {path for path, paths in found.items() if masks.union(paths, DataConfig()).any()}
    return {file: "anomalous" if file.path in marked else "good" for file in files}


def _by_folder(file: File) -> str | None:
    if any(map(names.is_normal, file.labels)):
        return "good"
    if len(file.labels) > 1 and names.plain(file.labels[0]) in names.ANOMALOUS:
        return file.labels[1]
    return file.labels[0] if file.labels else None


def _leave_out(listing: Listing, reason: str, files: Defects, used: Sequence[File]) -> None:
    kept = set(used)
    listing.left_out.extend(LeftOut(reason, file.path) for file in files if file not in kept)


def _dataset(
    category: str, train: Sequence[File], test: Mapping[File, str | None], listing: Listing
) -> Dataset:
    """Samples, and the masks of the anomalous ones."""
    anomalous = [file for file, defect in test.items() if defect != "good"]
    normal = [*train, *(file for file, defect in test.items() if defect == "good")]
    mask_list = [mask for mask in listing.masks if mask.split != "train"]  # there all is normal
    matches = mask_files.match(anomalous, normal, mask_list)
    left_out = [
        *listing.left_out,
        *(LeftOut("masks that could be of several images", path) for path in matches.ambiguous),
        *(LeftOut("masks that are of no image", path) for path in matches.unmatched),
    ]

    def sample(file: File) -> Sample:
        defect = test.get(file) or "good"
        masks_of = matches.masks.get(file.path, ())
        return Sample(file.path, category, defect, int(defect != "good"), masks_of)

    return Dataset(tuple(map(sample, train)), tuple(map(sample, test)), tuple(left_out))
