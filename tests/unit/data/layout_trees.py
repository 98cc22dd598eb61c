"""Trees of files in the layouts that there are, and what is made of them."""

import csv

import numpy as np
import pytest
from PIL import Image

from invad_jax.config import DataConfig
from invad_jax.data.layouts import load_dataset
from invad_jax.errors import UserError


def make(root, *names):
    """Empty files below `root`; returns `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def of_size(side, **options):
    """How images are read: squares of `side` pixels."""
    return DataConfig(image_size=side, **options)


def load(name, root, *categories):
    """The data set of a layout; all categories unless some are named."""
    return load_dataset(
        DataConfig(name=name, root=str(root) if root else "", categories=categories or ("all",))
    )


def refusal(name, root, *categories):
    """The message with which `load` refuses, which is one line."""
    with pytest.raises(UserError) as error:
        load(name, root, *categories)
    message = str(error.value)
    assert "\n" not in message
    return message


def pictures(root, *names):
    """Different small images, masks where the name says so, in the format of the extension."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        if any(word in name.lower() for word in ("mask", "label", "gt")):
            pixels = (rng.random((12, 9)) > 0.5) * np.uint8(255)
        elif name.endswith(".tif"):
            pixels = rng.integers(0, 2**16, (12, 9), np.uint16)  # deep grey
        else:
            pixels = rng.integers(0, 256, (12, 9, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def mvtec_tree(root):
    return pictures(
        root,
        *(f"nut/train/good/{i:03d}.png" for i in range(12)),
        *(f"nut/test/good/{i:03d}.JPG" for i in range(2)),
        *(f"nut/test/crack/{i:03d}.bmp" for i in range(3)),
        "nut/ground_truth/crack/000_mask.png", "nut/ground_truth/crack/002_mask.bmp",
        *(f"bolt/train/good/{i}.tif" for i in range(10)),
        "bolt/test/bent/0.webp",
    )  # fmt: skip


def mpdd_tree(root):
    return pictures(
        root,
        *(f"metal_plate/train/good/{i:03d}.png" for i in range(5)),
        "metal_plate/test/good/001.png", "metal_plate/test/major_rust/002.PNG",
        "metal_plate/ground_truth/major_rust/002_mask.png",
    )  # fmt: skip


def visa_tree(root):
    normal = [f"candle/Data/Images/Normal/{i:04d}.JPG" for i in (3, 1, 2, 0)]  # not sorted
    anomalous, mask = "candle/Data/Images/Anomaly/000.JPG", "candle/Data/Masks/Anomaly/000.png"
    pictures(root, *normal, anomalous, mask)
    (root / "split_csv").mkdir()
    with (root / "split_csv" / "1cls.csv").open("w", newline="") as stream:
        rows = [("object", "split", "label", "image", "mask")]
        rows += [("candle", "train", "normal", name, "") for name in normal[:3]]
        rows += [("candle", "test", "anomaly", anomalous, mask)]
        rows += [("candle", "test", "normal", normal[3], "")]
        csv.writer(stream).writerows(rows)
    return root


def bmad_tree(root):
    """All six sets: three with masks, three without."""
    for name in ("Brain", "Liver", "Retina"):
        pictures(
            root / name, "train/good/0.png", "train/good/1.png", "test/good/img/2.png",
            "test/Ungood/img/3.png", "test/Ungood/label/3.png", "valid/good/img/4.png",
        )  # fmt: skip
    for name in ("Chest", "Histopathology", "OCT2017"):
        pictures(root / name, "train/good/0.jpeg", "test/good/1.jpeg", "test/Ungood/2.jpeg")
    return root


def unsplit_tree(root):
    return pictures(
        root, *(f"good/{i}.jpg" for i in range(15)), "scratch/0.jpg", "ground_truth/scratch/0.png"
    )


def table(root):
    """Paths that lead out of the folder of the table, in no order."""
    pictures(root, "b/é 2.png", "a/1.png", "a/10.png", "c/0.png", "c/0_mask.png", "b/3.png")
    rows = ["path,split,label,mask_path,category", "../b/é 2.png,train,good,,p"]
    rows += [f"../a/{i}.png,train,good,,p" for i in (10, 1)]
    rows += ["../c/0.png,test,dent,../c/0_mask.png,q", f"{root}/b/3.png,train,0,,q"]
    (root / "tables").mkdir()
    (root / "tables" / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    return root / "tables" / "t.csv"


TREES = {
    "mvtec": mvtec_tree, "mpdd": mpdd_tree, "visa": visa_tree, "bmad": bmad_tree,
    "folder": unsplit_tree,
}  # fmt: skip
