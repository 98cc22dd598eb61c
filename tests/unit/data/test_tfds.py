"""Prepared data sets: the same samples and bytes as in the folders they were made from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from invad_jax import build_dataset
from invad_jax.data import layouts, masks, preprocess, records, tfds_builders
from invad_jax.data.pipeline import image_batches
from invad_jax.errors import UserError
from tests.unit.data.layout_trees import (
    TREES,
    load,
    make,
    mvtec_tree,
    of_size,
    pictures,
    refusal,
    table,
)

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of the MVTec-like tree, and what was made of it."""
    folder = tmp_path_factory.mktemp("prepared")
    mvtec_tree(folder / "data")
    build_dataset.build("mvtec", str(folder / "data"), folder / "records")
    return folder / "data", folder / "records"


def facts(sample):
    return sample.category, sample.defect, sample.gt_label, not sample.mask_paths


def content(path):
    with records.open_binary(path) as stream:
        return stream.read()


def assert_same(original, ours, root):
    for theirs, mine in ((original.train, ours.train), (original.test, ours.test)):
        assert list(map(facts, mine)) == list(map(facts, theirs))
        assert layouts.fingerprint(mine) == layouts.fingerprint(theirs)
        for a, b in zip(theirs, mine, strict=True):
            assert content(b.path) == Path(a.path).read_bytes()
            assert layouts.content_hash(b.path) == layouts.content_hash(a.path)
            assert Path(b.path).name == Path(a.path).name
            assert b.path.startswith(f"{root}/")
            for of_a, of_b in zip(a.mask_paths, b.mask_paths, strict=True):
                assert content(of_b) == Path(of_a).read_bytes()
    for theirs, mine in zip(
        layouts.hold_out(original.train, 0.3), layouts.hold_out(ours.train, 0.3), strict=True
    ):
        assert [s.path.rsplit("/", 1)[1] for s in mine] == [
            s.path.rsplit("/", 1)[1] for s in theirs
        ]


@pytest.mark.parametrize("layout", TREES)
def test_every_layout_is_the_same_from_records(tmp_path, layout):
    root = TREES[layout](tmp_path / "data")
    build_dataset.build(layout, str(root), tmp_path / "records")
    original = load("mvtec" if layout == "mpdd" else layout, root)
    shutil.move(root, tmp_path / "original_is_not_needed")
    ours = load("tfds", tmp_path / "records")
    shutil.move(tmp_path / "original_is_not_needed", root)
    assert_same(original, ours, tmp_path / "records")
    assert sum(bool(s.mask_paths) for s in ours.test) == {
        "mvtec": 2, "mpdd": 1, "visa": 1, "bmad": 3, "folder": 1
    }[layout]  # fmt: skip


def test_several_masks_of_an_image_become_one(tmp_path):
    root = pictures(
        tmp_path / "data", "train/good/0.png", "test/bent/7.png", "test/bent/8.png",
        "ground_truth/bent/7/mask_0.png", "ground_truth/bent/7/mask_1.png",
        "ground_truth/bent/8/mask_0.png",
    )  # fmt: skip
    build_dataset.build("folder", str(root), tmp_path / "records")
    original, ours = load("folder", root), load("tfds", tmp_path / "records")
    assert [len(s.mask_paths) for s in original.test] == [2, 1]
    for a, b in zip(original.test, ours.test, strict=True):
        assert len(b.mask_paths) == 1
        pixels = [np.asarray(Image.open(path)) > 0 for path in a.mask_paths]
        mask = masks.union(b.mask_paths, of_size(8))
        np.testing.assert_array_equal(mask, np.any(pixels, axis=0))
    assert content(ours.test[1].mask_paths[0]) == Path(original.test[1].mask_paths[0]).read_bytes()


def test_a_table_keeps_its_order_and_odd_names(tmp_path):
    path = table(tmp_path / "data")
    build_dataset.build("csv", str(path), tmp_path / "records")
    assert_same(load("csv", path), load("tfds", tmp_path / "records"), tmp_path / "records")


def test_images_and_masks_are_read_as_from_the_folder(prepared):
    data, out = prepared
    for a, b in zip(load("mvtec", data).test, load("tfds", out).test, strict=True):
        np.testing.assert_array_equal(
            preprocess.read_image(b.path, of_size(7)), preprocess.read_image(a.path, of_size(7))
        )
        np.testing.assert_array_equal(
            preprocess.read_original(b.path, of_size(7)),
            preprocess.read_original(a.path, of_size(7)),
        )
        if a.mask_paths:
            np.testing.assert_array_equal(
                masks.read_mask(b.mask_paths, b.path, of_size(7)),
                masks.read_mask(a.mask_paths, a.path, of_size(7)),
            )


def test_worker_processes_read_records(prepared):
    data, out = prepared
    folder, ours = (
        [s.path for s in load(name, root).train] for name, root in (("mvtec", data), ("tfds", out))
    )
    expected = list(image_batches(folder, of_size(8), 6))
    for a, b in zip(expected, image_batches(ours, of_size(8, num_workers=1), 6), strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])


def test_categories_are_chosen_when_building_and_when_reading(prepared, tmp_path):
    data, out = prepared
    assert {s.category for s in load("tfds", out, "bolt").train} == {"bolt"}
    assert "did you mean nut?" in refusal("tfds", out, "nutt")
    build_dataset.build("mvtec", str(data), tmp_path / "one", ["nut"])
    ours = load("tfds", tmp_path / "one")
    assert_same(load("mvtec", data, "nut"), ours, tmp_path / "one")
    assert ours.train[0].path.endswith(".array_record/train/good/000.png")


def test_the_way_of_tfds(prepared, tmp_path):
    """By name, from the manual folder, in three shards; decoded by no more than TFDS."""
    data, _ = prepared
    builder = tfds.builder("mvtec_ad", data_dir=tmp_path)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=data, num_shards=3)
    )
    assert len(list(Path(builder.data_dir).glob("*train*"))) == 3
    original = load("mvtec", data)
    assert_same(original, load("tfds", builder.data_dir), builder.data_dir)
    source = tfds.builder("mvtec_ad", data_dir=tmp_path).as_data_source("test")
    labels = source.dataset_info.features["label"]
    for example, sample in zip(source, original.test, strict=True):
        assert example["image"] == Path(sample.path).read_bytes()
        assert example["mask"] == b"".join(Path(mask).read_bytes() for mask in sample.mask_paths)
        assert labels.int2str(example["label"]) == ("normal", "anomalous")[sample.gt_label]
        assert example["defect"].decode() == sample.defect
        assert example["category"].decode() == sample.category
        assert f"{data}/{example['path'].decode()}" == sample.path


@pytest.mark.parametrize("name", ["mpdd", "visa", "bmad"])
def test_the_benchmarks_have_names(tmp_path, name):
    builder = tfds.builder(
        name, data_dir=tmp_path / "tfds", root=str(TREES[name](tmp_path / "data"))
    )
    assert isinstance(builder, tfds_builders.BENCHMARKS[name])
    builder.download_and_prepare()
    assert builder.info.splits["train"].num_examples == len(load("tfds", builder.data_dir).train)


NO_TENSORFLOW = """
import sys
from importlib.machinery import ModuleSpec
class Blocked:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.partition(".")[0] == "tensorflow" else None
    def create_module(self, spec):
        raise ModuleNotFoundError(f"{spec.name} is blocked")
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Blocked())
try:
    import tensorflow
    sys.exit("not blocked")
except ModuleNotFoundError:
    pass
from tensorflow_datasets.core import shuffle
shuffle.MAX_MEM_BUFFER_SIZE = 0  # beyond it, TFDS's own way of writing needs TensorFlow
from invad_jax import build_dataset
from invad_jax.config import DataConfig
from invad_jax.data import layouts, preprocess
root, out = sys.argv[1:]
status = build_dataset.cli(["--layout", "mvtec", "--root", root, "--out", out])
samples = layouts.load_dataset(DataConfig("tfds", out)).test
images = [preprocess.read_image(sample.path, DataConfig(image_size=4)) for sample in samples]
print(status, sum(image.shape == (4, 4, 3) for image in images))
"""


def test_no_tensorflow_is_needed(prepared, tmp_path):
    data, _ = prepared
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", NO_TENSORFLOW, str(data), str(tmp_path / "out")],
        cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["0 6"], done.stderr
    assert "22 images to train on, 6 to test" in done.stderr


def flip(path):
    """A bit amid what is not padding."""
    content = bytearray(path.read_bytes())
    used = np.flatnonzero(np.frombuffer(content, np.uint8))
    content[used[len(used) // 2]] ^= 1
    path.write_bytes(content)


TRAIN = "mvtec_ad-train.array_record-00000-of-00001"
DAMAGES = {
    "missing": lambda root: (root / TRAIN).unlink(),
    "empty": lambda root: os.truncate(root / TRAIN, 0),
    "truncated": lambda root: os.truncate(root / TRAIN, 66_000),
    "flipped": lambda root: flip(root / TRAIN),
    "of the other split": lambda root: shutil.copy(
        root / TRAIN.replace("train", "test"), root / TRAIN
    ),
    "no features": lambda root: (root / "features.json").unlink(),
    "no JSON": lambda root: (root / "dataset_info.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_records_are_one_line(prepared, tmp_path, damage):
    shutil.copytree(prepared[1], tmp_path / "bad")
    DAMAGES[damage](tmp_path / "bad")
    samples = load("tfds", tmp_path / "bad").train
    with pytest.raises(UserError) as error:
        list(image_batches([sample.path for sample in samples], of_size(4), 8))
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/bad/train.array_record/")
    assert "build_dataset" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda root: shutil.rmtree(root), "bad: no such folder"),
        (lambda root: (root / "dataset_info.json").unlink(), "bad: not a prepared data set"),
        (lambda root: (root / "metadata.json").unlink(), "does not list the samples"),
        (lambda root: (root / "metadata.json").write_text("{}"), "does not list the samples"),
        (lambda root: (root / "metadata.json").write_text('{"samples": [1]}'), "does not list"),
        (lambda root: (root / "metadata.json").write_text('{"samples": {"train": [{}]}}'), "not"),
    ],
)
def test_what_is_no_prepared_data_set_is_named(prepared, tmp_path, prepare, expected):
    shutil.copytree(prepared[1], tmp_path / "bad")
    prepare(tmp_path / "bad")
    message = refusal("tfds", tmp_path / "bad")
    assert message.startswith(f"data.root={tmp_path}/bad: ")
    assert expected in message


def test_a_root_is_needed():
    assert refusal("tfds", "") == "data.root=: no such folder"


def test_a_name_that_is_not_there_is_named(prepared):
    with pytest.raises(UserError, match=r"holds no nut/x\.png in split train"):
        records.open_binary(f"{prepared[1]}/train.array_record/nut/x.png")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--layout", "mvtek", "--root", "DATA"], "--layout mvtek: unknown; did you mean mvtec?"),
        (["--layout", "tfds", "--root", "DATA"], "--layout tfds: unknown"),
        (["--layout", "mvtec"], "--root: give the folder"),
        (["--layout", "mvtec", "--root", "/no"], "data.root=/no: no such folder"),
        (["--layout", "visa", "--root", "DATA"], "split_csv/1cls.csv"),
        (["--layout", "mvtec", "--root", "DATA", "--categories", "nutt"], "did you mean nut?"),
        (["--layout", "mvtec", "--root", "DATA", "--out", "DATA"], "exists already"),
        (["--layout", "mvtec", "--rot", "DATA"], "did you mean --root"),
    ],
)
def test_what_cannot_be_built_is_one_line_and_leaves_nothing(
    prepared, tmp_path, capsys, arguments, expected
):
    arguments = [str(prepared[0]) if a == "DATA" else a for a in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "out")]
    before = sorted(prepared[0].rglob("*"))
    assert build_dataset.cli(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert list(tmp_path.iterdir()) == []
    assert sorted(prepared[0].rglob("*")) == before


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    root = make(tmp_path / "data", "train/good/0.png")
    Path(os.fsdecode(os.fsencode(root / "train" / "good") + b"/\xff.png")).write_bytes(b"x")
    with pytest.raises(UserError, match="not UTF-8") as error:
        build_dataset.build("folder", str(root), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
