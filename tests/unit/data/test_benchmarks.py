"""The layouts of VisA and BMAD on generated trees (empty files: only names are read)."""

import csv
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from invad_jax.data.layouts import Sample
from invad_jax.data.masks import read_mask
from tests.unit.data.layout_trees import load, make, of_size, refusal

# --- VisA

VISA_ROWS = [  # object, split, label, image, mask
    ("candle", "train", "normal", "candle/Data/Images/Normal/0000.JPG", ""),
    ("candle", "test", "normal", "candle/Data/Images/Normal/0001.JPG", ""),
    ("candle", "test", "anomaly", "candle/Data/Images/Anomaly/000.JPG",
     "candle/Data/Masks/Anomaly/000.png"),
    ("pcb1", "train", "normal", "pcb1/Data/Images/Normal/0000.JPG", ""),
    ("pcb1", "train", "normal", "pcb1/Data/Images/Normal/0001.JPG", ""),
]  # fmt: skip


def write_visa(root, rows, files=None):
    make(root, *(name for row in rows for name in row[3:] if name) if files is None else files)
    (root / "split_csv").mkdir(parents=True)
    with (root / "split_csv" / "1cls.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["object", "split", "label", "image", "mask"])
        writer.writerows(rows)
    return root


def test_visa(tmp_path):
    root = write_visa(tmp_path, VISA_ROWS)
    dataset = load("visa", root)
    assert dataset.train == (
        Sample(f"{root}/candle/Data/Images/Normal/0000.JPG", "candle", "good", 0),
        Sample(f"{root}/pcb1/Data/Images/Normal/0000.JPG", "pcb1", "good", 0),
        Sample(f"{root}/pcb1/Data/Images/Normal/0001.JPG", "pcb1", "good", 0),
    )
    assert dataset.test == (
        Sample(f"{root}/candle/Data/Images/Normal/0001.JPG", "candle", "good", 0),
        Sample(
            f"{root}/candle/Data/Images/Anomaly/000.JPG", "candle", "anomaly", 1,
            (f"{root}/candle/Data/Masks/Anomaly/000.png",),
        ),
    )  # fmt: skip


def test_visa_categories_that_are_not_wanted_need_not_be_there(tmp_path):
    root = write_visa(tmp_path, VISA_ROWS, files=[row[3] for row in VISA_ROWS[3:]])
    assert len(load("visa", root, "pcb1").train) == 2
    assert "1cls.csv:2: path" in refusal("visa", root, "candle")
    assert "did you mean pcb1?" in refusal("visa", root, "pcb")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (("pcb1", "train", "normal", "no.JPG", ""), "no.JPG: no such file"),
        (("pcb1", "test", "anomaly", "x.JPG", "no.png"), "no.png: no such file"),
        (("pcb1", "train", "anomaly", "x.JPG", ""), "cannot be trained on"),
        (("pcb1", "val", "normal", "x.JPG", ""), "split 'val': expected train or test"),
        (("pcb1", "train", "normal", VISA_ROWS[3][3], ""), "listed before, at"),
        (("", "train", "normal", "x.JPG", ""), "no object; needs object, split, label, image"),
        (("pcb1", "train", "normal", "", ""), "no image"),
    ],
)
def test_visa_errors_name_file_and_line(tmp_path, row, expected):
    root = write_visa(tmp_path, [*VISA_ROWS[3:], row], files=["x.JPG", VISA_ROWS[3][3]])
    make(root, VISA_ROWS[4][3])
    message = refusal("visa", root)
    assert message.startswith(f"{root}/split_csv/1cls.csv:4: ")
    assert expected in message


def test_what_is_no_visa_is_named(tmp_path):
    assert "data.root=: no such" in refusal("visa", "")
    root = make(tmp_path, "candle/train/good/000.JPG")
    message = refusal("visa", root)
    assert f"data.root={root}: no such file as split_csv/1cls.csv" in message
    assert "data.name=mvtec" in message
    write_visa(tmp_path / "empty", [])
    assert "1cls.csv: has no rows" in refusal("visa", tmp_path / "empty")


def test_visa_without_normals_to_train_on(tmp_path):
    root = write_visa(tmp_path, [VISA_ROWS[0], ("pcb1", *VISA_ROWS[2][1:])])
    assert "category pcb1: no normal images with split=train" in refusal("visa", root)


def test_faint_values_of_a_visa_mask_are_anomalous(tmp_path):
    """Its masks number the kinds of defects 1, 2, ...: nearly black, and not black."""
    pixels = np.zeros((4, 4), np.uint8)
    pixels[1, 2], pixels[3, 0] = 1, 4
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    Image.fromarray(np.full((4, 4, 3), 90, np.uint8)).save(tmp_path / "image.png")
    mask = read_mask([tmp_path / "mask.png"], tmp_path / "image.png", of_size(4))
    assert np.argwhere(mask).tolist() == [[1, 2], [3, 0]]


# --- BMAD

FORMS = {"directly": "", "under img": "img/"}
"""Where the images of one folder may lie."""


@settings(max_examples=25)
@given(
    train=st.sampled_from(list(FORMS.values())),
    good=st.sampled_from(list(FORMS.values())),
    ungood=st.sampled_from(list(FORMS.values())),
    masked=st.sets(st.integers(0, 3)),
    valid=st.booleans(),
)
def test_bmad_in_all_its_forms(tmp_path_factory, train, good, ungood, masked, valid):
    root = tmp_path_factory.mktemp("bmad") / "Brain"
    make(root, *(f"train/good/{train}{i}.png" for i in range(3)))
    make(root, *(f"test/good/{good}{i}.png" for i in range(2)))
    make(root, *(f"test/good/label/{i}.png" for i in masked))  # say nothing: normal is normal
    make(root, *(f"test/Ungood/{ungood}{i}.png" for i in range(4)))
    make(root, *(f"test/Ungood/label/{i}.png" for i in masked))
    if valid:
        make(root, "valid/good/img/8.png", "valid/Ungood/9.png", "valid/Ungood/label/9.png")

    dataset = load("bmad", root)
    assert dataset.train == tuple(
        Sample(f"{root}/train/good/{train}{i}.png", "Brain", "good", 0) for i in range(3)
    )
    mask_of = {i: (f"{root}/test/Ungood/label/{i}.png",) for i in masked}
    assert dataset.test == (
        *(
            Sample(f"{root}/test/Ungood/{ungood}{i}.png", "Brain", "Ungood", 1, mask_of.get(i, ()))
            for i in range(4)
        ),
        *(Sample(f"{root}/test/good/{good}{i}.png", "Brain", "good", 0) for i in range(2)),
    )
    assert load("bmad", root.parent) == dataset  # the folder of the sets, or of one


def test_bmad_masks_may_have_another_extension(tmp_path):
    make(tmp_path, "train/good/img/0.png", "test/Ungood/img/7.jpg", "test/Ungood/label/7.png")
    (sample,) = load("bmad", tmp_path).test
    assert sample.mask_paths == (f"{tmp_path}/test/Ungood/label/7.png",)


def test_bmad_sets_are_chosen_by_name(tmp_path):
    for name in ("Brain", "Chest", "Liver"):
        make(tmp_path, f"{name}/train/good/0.png", f"{name}/test/Ungood/1.png")
    categories = Counter(
        sample.category for sample in load("bmad", tmp_path, "Liver", "Chest").test
    )
    assert categories == {"Chest": 1, "Liver": 1}
    assert "did you mean Brain?" in refusal("bmad", tmp_path, "Brian")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train/good/0.png", "train/Ungood/img/1.png"], "train/Ungood: anomalous images cannot"),
        (["train/good/label/0.png"], "train: no normal images"),
        (["train/good/0.png", "test/1.png"], "have no label"),
        (["test/good/0.png"], "no category found"),
    ],
)
def test_bmad_says_what_is_wrong(tmp_path, names, expected):
    assert expected in refusal("bmad", make(tmp_path, *names))


@pytest.mark.parametrize("name", ["bmad", "visa"])
def test_a_missing_root_is_named(tmp_path, name):
    assert f"data.root={tmp_path / 'no'}: no such" in refusal(name, tmp_path / "no")


def test_mpdd_has_the_layout_of_mvtec(tmp_path):
    """Names and upper-case extensions are no matter."""
    root = make(
        tmp_path,
        "metal_plate/train/good/000.png",
        "metal_plate/test/good/001.png",
        "metal_plate/test/major_rust/002.PNG",
        "metal_plate/ground_truth/major_rust/002_mask.png",
    )
    good, rust = load("mvtec", root, "metal_plate").test
    assert (rust.defect, good.defect) == ("major_rust", "good")
    assert rust.mask_paths == (f"{root}/metal_plate/ground_truth/major_rust/002_mask.png",)
