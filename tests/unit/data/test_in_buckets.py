"""Data sets in a bucket: the same samples as on a disk, of one listing."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from invad_jax import build_dataset
from invad_jax.config import DataConfig
from invad_jax.data import inputs, layouts, records
from invad_jax.data.preprocess import read_image
from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.io.paths import to_path
from tests import emulators
from tests.emulators import BUCKET

bucket = pytest.importorskip("invad_jax.io.bucket", reason="the extra [cloud] is missing")
local_copies = pytest.importorskip("invad_jax.io.local_copies")


def image(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(path)


def mvtec(root):
    for number, place in enumerate(
        ("train/good/0", "train/good/1", "test/good/0", "test/bad/0", "ground_truth/bad/0_mask")
    ):
        image(root / "nut" / f"{place}.png", 40 * number + 9)
    image(root / "nut" / "train" / "good" / ".hidden" / "9.png", 1)
    (root / "nut" / "train" / "good" / "notes.txt").write_text("no image")
    (root / "nut" / "train" / "good" / "x.svg").write_text("<svg/>")
    return root


def table(root):
    with (root / "all.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "split", "label", "mask_path"])
        writer.writerow(["nut/train/good/0.png", "train", "good", ""])
        writer.writerow(["nut/test/bad/0.png", "test", "bad", "nut/ground_truth/bad/0_mask.png"])
    return root / "all.csv"


@pytest.fixture(scope="module", params=["gs", "s3"])
def roots(request, tmp_path_factory):
    """The same on this machine and in a bucket."""
    here = mvtec(tmp_path_factory.mktemp("data"))
    table(here)
    with emulators.used(request.param), pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        there = to_path(f"{request.param}://{BUCKET}/data")
        files.upload_folder(here, there)
        yield here, there


@pytest.mark.parametrize(
    ("name", "place"), [("mvtec", ""), ("mvtec", "nut"), ("folder", "nut"), ("csv", "all.csv")]
)
def test_a_layout_finds_the_same(roots, name, place):
    found = [
        repr(layouts.load_dataset(DataConfig(name=name, root=str(root / place)))).replace(
            str(root), ""
        )
        for root in roots
    ]
    assert found[0] == found[1]
    assert "0.png" in found[0]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_table_of_any_kind(roots, tmp_path, kind):
    root = roots[1]
    row = {"path": "nut/train/good/0.png", "split": "train", "label": "good"}
    lines = {"jsonl": json.dumps(row), "json": json.dumps([row]), "csv": "path,split\nx.png,train"}
    files.write_text(root / f"table.{kind}", lines[kind] + "\n")
    data = DataConfig(name="csv", root=str(root / f"table.{kind}"))
    if kind == "csv":
        with pytest.raises(UserError, match=r"table\.csv:1: no column label"):
            layouts.load_dataset(data)
    else:
        assert len(layouts.load_dataset(data).train) == 1


def test_images_are_read(roots):
    data = DataConfig(image_size=8)
    one, other = (read_image(str(root / "nut/test/good/0.png"), data) for root in roots)
    np.testing.assert_array_equal(one, other)


def test_a_table_takes_one_listing_and_no_request_for_each_row(roots, monkeypatch):
    asked = []
    kind = bucket.BucketPath._kind
    monkeypatch.setattr(
        bucket.BucketPath, "_kind", lambda self: (asked.append(self.name), kind(self))[1]
    )
    layouts.load_dataset(DataConfig(name="csv", root=str(roots[1] / "all.csv")))
    assert set(asked) == {"all.csv"}


@pytest.mark.parametrize("source", ["nut", "nut/train/good/0.png", "nut/*/good/*.png"])
def test_inputs_are_the_same(roots, source):
    one, other = (inputs.find([f"{root}/{source}"]) for root in roots)
    assert one.names == other.names != []
    assert [path.removeprefix(str(roots[1])) for path in other.paths] == [
        path.removeprefix(str(roots[0])) for path in one.paths
    ]
    assert one.left_out == other.left_out


def test_what_is_missing_is_one_line(roots):
    with pytest.raises(UserError, match=r"--input .*/none: no such object"):
        inputs.find([f"{roots[1]}/none"])
    with pytest.raises(UserError, match=r"data.root=.*/none: no such folder"):
        layouts.load_dataset(DataConfig(name="mvtec", root=f"{roots[1]}/none"))
    with pytest.raises(UserError, match=r"/none.png: no such file"):
        read_image(f"{roots[1]}/none.png", DataConfig())


def test_a_prepared_data_set_is_read(roots, tmp_path):
    here, there = roots
    build_dataset.build("mvtec", str(here), tmp_path / "records")
    files.upload_folder(tmp_path / "records", there / "records")
    data = DataConfig(name="tfds", root=str(there / "records"), image_size=8)
    (sample,) = [s for s in layouts.load_dataset(data).test if s.gt_label]
    (mask,) = sample.mask_paths
    with records.open_binary(mask) as stream:
        assert stream.read() == (here / "nut/ground_truth/bad/0_mask.png").read_bytes()
    np.testing.assert_array_equal(
        read_image(sample.path, data), read_image(str(here / "nut/test/bad/0.png"), data)
    )
    records._opened.cache_clear()
    copies = []
    with pytest.MonkeyPatch.context() as patch:
        copy = local_copies.local_folder
        patch.setattr(
            local_copies, "local_folder", lambda path: (copies.append(path), copy(path))[1]
        )
        with ThreadPoolExecutor(8) as pool:  # as the readers of a training begin
            images = list(pool.map(lambda _: read_image(sample.path, data), range(8)))
    assert len(copies) == 1
    np.testing.assert_array_equal(images[0], images[7])
    listed = inputs.find([str(there / "records" / "test.array_record")])
    assert len(listed.paths) == 2


def test_a_real_iad_table_is_read(roots):
    there = roots[1] / "real_iad"
    content = {
        "meta": {"normal_class": "OK", "prefix": "nut/"},
        "train": [{"image_path": "0.png", "anomaly_class": "OK"}],
        "test": [],
    }
    files.write_json(there / "realiad_jsons" / "nut.json", content)
    with files.replaced(there / "realiad_1024" / "nut" / "0.png") as temporary:
        image(temporary, 7)
    dataset = layouts.load_dataset(DataConfig(name="real_iad", root=str(there)))
    assert [sample.path for sample in dataset.train] == [f"{there}/realiad_1024/nut/0.png"]
    assert json.loads(files.read_bytes(there / "realiad_jsons" / "nut.json")) == content
