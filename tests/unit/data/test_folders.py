"""Files sorted by the names of their folders, and masks found by name, in layouts people have."""

import logging
import os

import pytest
from PIL import Image

from invad_jax.data import names
from tests.unit.data.layout_trees import load, make, pictures, refusal


def numbered(folder, count, extension="png"):
    return [f"{folder}/{i:03d}.{extension}" for i in range(count)]


def masks_of(dataset, root):
    """Anomalous image -> its masks, both relative to `root`."""
    return {
        os.path.relpath(sample.path, root): [os.path.relpath(p, root) for p in sample.mask_paths]
        for sample in dataset.test
        if sample.gt_label
    }


def said(caplog):
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog):
    caplog.set_level(logging.INFO)


NAMED_LIKE_THEIR_IMAGE = [
    ("OK", "NG/000.png", "MASK/000.png"),
    ("ok", "ng/000.jpg", "Masks/000_mask.png"),
    ("Normal", "Abnormal/000.png", "label/000.bmp"),
    ("normal", "defect/000.png", "labels/defect/000.png"),
    ("good", "scratch/000.png", "gt/Scratch/000_GT.png"),
    ("good", "broken_large/000.png", "Ground Truth/Broken-Large/000_mask.PNG"),
    ("GOOD", "NG/scratch/000.png", "mask/NG/scratch/000.png"),
    ("GOOD", "NG/scratch/000.png", "masks/scratch/000.png"),
    ("GOOD", "NG/scratch/000.png", "NG/scratch/masks/000.png"),
    ("ok", "ng/cam1/000.png", "ng_masks/cam1/000.png"),
    ("good", "bad/000.jpg", "bad/000_mask.png"),
    ("good", "bad/img_7.png", "bad/mask_7.png"),
    ("good", "bad/7_rgb.png", "bad/7_gt.png"),
    ("good", "bad/000.jpg", "annotations/bad/000.jpg.png"),
    ("good", "bad/rgb/000.png", "bad/gt/000.png"),
    ("images/good", "images/bad/000.png", "masks/bad/000.png"),
    ("good", "bad/000.png", "mask_images/bad/000_seg.png"),
    ("anomaly-free", "anomalous/000.png", "annotation/anomalous/000.png"),
]


@pytest.mark.parametrize(("good", "anomalous", "mask"), NAMED_LIKE_THEIR_IMAGE)
def test_a_mask_is_found_by_its_name(tmp_path, caplog, good, anomalous, mask):
    root = make(tmp_path, *numbered(good, 10), anomalous, mask)
    dataset = load("folder", root)
    assert masks_of(dataset, root) == {anomalous: [mask]}
    assert (len(dataset.train), len(dataset.test)) == (8, 3)  # a fifth of the normals is kept
    assert not said(caplog)


def test_of_the_same_names_in_a_split(tmp_path, caplog):
    root = make(
        tmp_path, *numbered("Training/Good", 3), *numbered("TEST/OK", 2), "TEST/Broken/000.png",
        "Ground_Truth/broken/000.png", "train/masks/000.png",
    )  # fmt: skip
    dataset = load("folder", root)
    assert [s.path for s in dataset.train] == [
        f"{root}/Training/Good/{i:03d}.png" for i in (0, 1, 2)
    ]
    assert masks_of(dataset, root) == {"TEST/Broken/000.png": ["Ground_Truth/broken/000.png"]}


@pytest.mark.parametrize("folder", ["test_masks", "mask/test", "test/mask", "gt_test", "masks"])
def test_folders_of_masks_may_name_the_split(tmp_path, folder):
    root = make(tmp_path, "train/good/0.png", "test/bad/0.png", f"{folder}/bad/0.png")
    assert masks_of(load("folder", root), root) == {"test/bad/0.png": [f"{folder}/bad/0.png"]}
    make(root, folder.replace("test", "train") + "/bad/0.png")
    assert masks_of(load("folder", root), root) == {"test/bad/0.png": [f"{folder}/bad/0.png"]}


def test_a_mask_in_the_training_folder_is_of_no_test_image(tmp_path):
    root = make(tmp_path, "train/good/0.png", "train/masks/0.png", "masks/train/0.png",
                "test/bad/0.png")  # fmt: skip
    assert masks_of(load("folder", root), root) == {"test/bad/0.png": []}


def test_masks_for_some_and_for_none_are_counted_and_named(tmp_path, caplog):
    root = make(
        tmp_path, *numbered("good", 5), *numbered("NG", 3), "MASK/001.png", "MASK/9.png",
    )  # fmt: skip
    assert masks_of(load("folder", root), root) == {
        "NG/000.png": [], "NG/001.png": ["MASK/001.png"], "NG/002.png": []
    }  # fmt: skip
    assert f"left out, masks that are of no image: 1 ({root}/MASK/9.png)" in said(caplog)
    expected = f"anomalous images: 1 with masks, 2 without: {root}/NG/000.png, {root}/NG/002.png"
    assert expected in said(caplog)


def test_no_mask_has_two_images(tmp_path, caplog):
    root = make(tmp_path, *numbered("good", 5), "bad/cam0/0.png", "bad/cam1/0.png", "gt/bad/0.png")
    assert set(map(len, masks_of(load("folder", root), root).values())) == {0}
    assert f"masks that could be of several images: 1 ({root}/gt/bad/0.png)" in said(caplog)


def test_the_nearest_mask_counts(tmp_path):
    root = make(
        tmp_path, *numbered("good", 5), "bad/cam0/0.png", "bad/cam1/0.png", "gt/bad/0.png",
        "gt/bad/cam0/0.png", "gt/bad/cam1/0.png",
    )  # fmt: skip
    assert masks_of(load("folder", root), root) == {
        "bad/cam0/0.png": ["gt/bad/cam0/0.png"], "bad/cam1/0.png": ["gt/bad/cam1/0.png"]
    }  # fmt: skip


def test_masks_of_normal_images_are_nothing_to_speak_of(tmp_path, caplog):
    root = make(tmp_path, *numbered("OK", 5), "NG/7.png", *numbered("MASK", 5), "MASK/7.png")
    assert masks_of(load("folder", root), root) == {"NG/7.png": ["MASK/7.png"]}
    assert not said(caplog)


def test_an_image_may_end_in_the_word_mask(tmp_path):
    root = make(tmp_path, "good/ffp2_mask.png", "bad/a.png", "bad/a_mask.png", "bad/n95_mask.png")
    dataset = load("folder", root)
    assert masks_of(dataset, root) == {"bad/a.png": ["bad/a_mask.png"], "bad/n95_mask.png": []}


def test_normal_images_may_lie_in_subfolders(tmp_path, caplog):
    root = make(
        tmp_path, *numbered("good", 4), *numbered("good/cam0", 10), *numbered("good/a/b", 10)
    )
    assert len(load("folder", root).train) == 24
    split = make(tmp_path / "split", *(f"train/{name}" for name in numbered("ok/line 1", 7)))
    assert len(load("folder", split).train) == 7
    assert not said(caplog)


def test_a_folder_of_nothing_but_normal_images(tmp_path):
    assert len(load("folder", make(tmp_path, *(f"{i}.jpg" for i in range(31)))).train) == 31


@pytest.fixture
def masked_parts(tmp_path):
    """Ten images of one folder: 2 and 5 have a mask that marks something, 7 an empty one."""
    names = [f"{i}.png" for i in range(10)]
    pictures(tmp_path, *names, "2_mask.png", "5_GT.png")
    Image.new("L", (9, 12)).save(tmp_path / "7_label.bmp")
    return tmp_path


def test_where_no_folder_says_what_is_anomalous_its_mask_does(masked_parts, caplog):
    dataset = load("folder", masked_parts)
    assert masks_of(dataset, masked_parts) == {"2.png": ["2_mask.png"], "5.png": ["5_GT.png"]}
    assert {s.defect for s in dataset.test} == {"good", "anomalous"}
    assert (len(dataset.train), len(dataset.test)) == (6, 4)  # a fifth of 8 normal ones is kept
    assert not said(caplog)


def test_in_a_split_too(masked_parts, caplog):
    (masked_parts / "train").mkdir()
    (masked_parts / "test").mkdir()
    for path in sorted(masked_parts.glob("*.*")):
        path.rename(path.parent / ("train" if path.name < "4" else "test") / path.name)
    dataset = load("folder", masked_parts)
    assert [s.path[-5:] for s in dataset.train] == ["0.png", "1.png", "3.png"]
    assert masks_of(dataset, masked_parts) == {"test/5.png": ["test/5_GT.png"]}
    assert len(dataset.test) == 6
    expected = "images to train on whose mask marks something: 1 ({}/train/2.png)"
    assert expected.format(masked_parts) in said(caplog)


def test_masks_of_the_test_say_nothing_of_the_training(tmp_path):
    root = pictures(tmp_path, "train/0.png", "train/1.png", "test/bad/0.png", "ground_truth/0.png")
    dataset = load("folder", root)
    assert len(dataset.train) == 2
    assert masks_of(dataset, root) == {"test/bad/0.png": ["ground_truth/0.png"]}


def test_images_that_no_folder_labels_are_named(tmp_path, caplog):
    root = make(tmp_path, *numbered("good", 3), "a.png", "bad/b.png")
    assert len(load("folder", root).train) == 2
    assert f"images without a label, not in a folder such as good: 1 ({root}/a.png)" in said(caplog)
    assert "no normal images" in refusal("folder", make(tmp_path / "x", "a.png", "NG/b.png"))


def test_links_are_followed_and_dangling_ones_named(tmp_path, caplog):
    root = make(tmp_path, "data/good/0.png", "elsewhere/1.png", "elsewhere/deep/2.png") / "data"
    (root / "good" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "good" / "3.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (root / "good" / "4.png").symlink_to(tmp_path / "gone.png")
    (root / "good" / "gone").symlink_to(tmp_path / "gone")
    (root / "good" / "again").symlink_to(root)
    (root / "good" / "self").symlink_to("self")
    paths = [os.path.relpath(s.path, root) for s in load("folder", root).train]
    assert paths == [
        "good/0.png", "good/3.png", "good/more/1.png", "good/more/deep/2.png"
    ]  # fmt: skip
    nowhere = ", ".join(f"{root}/good/{name}" for name in ("4.png", "gone", "self"))
    assert f"links that lead nowhere: 3 ({nowhere})" in said(caplog)
    assert f"links to a folder that they are in: 1 ({root}/good/again)" in said(caplog)


def test_formats_that_are_not_read_are_named(tmp_path, caplog):
    root = make(tmp_path, "good/a.JFIF", "good/b.heic", "good/c.DCM", "good/d.pfm", "good/e.txt")
    assert len(load("folder", root).train) == 2
    expected = f"images of a format that is not read: 2 ({root}/good/b.heic, {root}/good/c.DCM)"
    assert expected in said(caplog)


def test_what_servers_and_systems_hide_is_no_image(tmp_path):
    root = make(tmp_path, "good/0.png", "good/._0.png", "good/@eaDir/0.png/THUMB.jpg",
                "__MACOSX/good/1.png", ".trash/good/2.png")  # fmt: skip
    assert len(load("folder", root).train) == 1


@pytest.mark.parametrize("break_", ["\n", "\r", "\x85", "\u2028", "\u2029", "\x1b"])
def test_names_that_break_lines_are_refused_in_one(tmp_path, break_):
    for i, name in enumerate((f"train/good/a{break_}b.png", f"test/a{break_}b/0.png")):
        root = make(tmp_path / str(i), "train/good/0.png", name)
        message = refusal("folder", root)
        assert repr(f"a{break_}b")[1:-1] in message
        assert message.endswith("rename it")
    root = make(tmp_path / "2", f"a{break_}b/train/good/0.png")
    assert refusal("mvtec", root).startswith(f"category {f'a{break_}b'!r}: a line break")


def test_names_that_are_no_text(tmp_path):
    """Of an image it is kept byte for byte; a category or a defect stands in tables."""
    odd = os.fsdecode(b"a\xff")
    assert len(load("folder", make(tmp_path / "0", f"train/good/{odd}.png")).train) == 1
    root = make(tmp_path / "1", "train/good/0.png", f"test/{odd}/0.png")
    assert "defect 'a\\udcff'" in refusal("folder", root)


def test_categories_within_a_split_are_not_taken_for_one(tmp_path):
    root = make(tmp_path, "train/nut/good/0.png", "train/pin/good/0.png", "test/nut/bad/1.png")
    for name in ("folder", "mvtec"):
        assert f"{root}/train/nut: anomalous images cannot be trained on" in refusal(name, root)


def test_a_split_that_lies_deeper_is_named(tmp_path):
    root = make(tmp_path, "a/b/train/good/0.png", "a/b/test/bad/1.png")
    expected = f"{root}/a/b/train: train lies deeper than data.root={root}; expected it directly"
    assert expected in refusal("folder", root)
    assert len(load("folder", root / "a" / "b").train) == 1


def test_masks_called_like_a_jpeg_beside_them(tmp_path, caplog):
    """As in the magnetic tiles of Huang et al. (2020)."""
    root = make(tmp_path, *(f"{kind}/Imgs/{i}.{end}" for kind in ("free/good", "bad/crack")
                            for i in range(5) for end in ("jpg", "png")))  # fmt: skip
    dataset = load("folder", root)
    assert masks_of(dataset, root) == {
        f"bad/crack/Imgs/{i}.jpg": [f"bad/crack/Imgs/{i}.png"] for i in range(5)
    }
    assert len(dataset.train) + len(dataset.test) == 10
    assert "files called like a JPEG beside them, taken for its mask: 10 (" in said(caplog)


def test_masks_that_are_no_images_are_named(tmp_path, caplog):
    root = make(tmp_path, "good/0.png", "bad/1.png", "labels/1.txt", "masks/bad/1.json")
    load("folder", root)
    expected = f"files among masks that are no images: 2 ({root}/labels/1.txt, "
    assert expected in said(caplog)


# --- the layouts of benchmarks that share that of MVTec AD, more or less


def test_mvtec_loco(tmp_path, caplog):
    """Several masks an image, in a folder called like it."""
    root = make(
        tmp_path, *numbered("pushpins/train/good", 3), *numbered("pushpins/validation/good", 2),
        *numbered("pushpins/test/good", 1), *numbered("pushpins/test/logical_anomalies", 2),
        *numbered("pushpins/ground_truth/logical_anomalies/000", 2),
        *numbered("pushpins/ground_truth/logical_anomalies/001", 1),
    )  # fmt: skip
    dataset = load("mvtec", root)
    folder = "pushpins/ground_truth/logical_anomalies"
    assert masks_of(dataset, root) == {
        "pushpins/test/logical_anomalies/000.png": [
            f"{folder}/000/000.png",
            f"{folder}/000/001.png",
        ],
        "pushpins/test/logical_anomalies/001.png": [f"{folder}/001/000.png"],
    }  # fmt: skip
    assert len(dataset.train) == 3
    assert "images in validation, which is neither train nor test: 2 (" in said(caplog)


def test_mvtec_ad_2(tmp_path, caplog):
    root = make(
        tmp_path, "can/train/good/000_regular.png", "can/validation/good/000_regular.png",
        "can/test_public/good/000_regular.png", "can/test_public/bad/000_regular.png",
        "can/test_public/bad/000_overexposed.png",
        "can/test_public/ground_truth/bad/000_regular_mask.png",
        "can/test_public/ground_truth/bad/000_overexposed_mask.png",
        "can/test_private/000_regular.png", "can/test_private_mixed/000_mixed.png",
    )  # fmt: skip
    dataset = load("mvtec", root)
    truth = "can/test_public/ground_truth/bad"
    assert masks_of(dataset, root) == {
        "can/test_public/bad/000_overexposed.png": [f"{truth}/000_overexposed_mask.png"],
        "can/test_public/bad/000_regular.png": [f"{truth}/000_regular_mask.png"],
    }
    assert (len(dataset.train), len(dataset.test)) == (1, 3)
    for split in ("validation", "test_private", "test_private_mixed"):
        assert f"images in {split}, which is neither train nor test: 1 (" in said(caplog)


def test_mvtec_3d_ad(tmp_path, caplog):
    """Its colour images; the masks lie beside them, and the heights are left out."""
    root = make(
        tmp_path, *numbered("bagel/train/good/rgb", 2),
        *numbered("bagel/train/good/xyz", 2, "tiff"), "bagel/test/crack/rgb/000.png",
        "bagel/test/crack/gt/000.png", "bagel/test/crack/xyz/000.tiff",
        "bagel/test/good/rgb/000.png", "bagel/test/good/gt/000.png",
    )  # fmt: skip
    dataset = load("mvtec", root)
    assert masks_of(dataset, root) == {
        "bagel/test/crack/rgb/000.png": ["bagel/test/crack/gt/000.png"]
    }
    assert (len(dataset.train), len(dataset.test)) == (2, 2)
    assert [s.defect for s in dataset.test] == ["crack", "good"]
    assert "files beside a folder of images: 3 (" in said(caplog)


def test_btad(tmp_path):
    root = make(
        tmp_path, *numbered("01/train/ok", 2, "bmp"), *numbered("01/test/ok", 1, "bmp"),
        *numbered("01/test/ko", 2, "bmp"), *numbered("01/ground_truth/ko", 2, "png"),
        *numbered("02/train/ok", 2),
    )  # fmt: skip
    dataset = load("mvtec", root)
    assert [s.category for s in dataset.train] == ["01", "01", "02", "02"]
    assert masks_of(dataset, root) == {
        f"01/test/ko/{i:03d}.bmp": [f"01/ground_truth/ko/{i:03d}.png"] for i in range(2)
    }


def test_a_category_with_flaws_is_not_passed_over(tmp_path, caplog):
    root = make(tmp_path, "a/train/good/0.png", "b/train/Gut/0.png", "licence/x.png")
    assert "b/train/Gut: anomalous images cannot be trained on" in refusal("mvtec", root)
    load("mvtec", root, "a")
    assert "no categories, since there is no train in them: licence" in said(caplog)


def test_many_files_take_time_in_proportion(monkeypatch):
    """The names of a folder are looked at a fixed number of times each."""
    from invad_jax.data import mask_files
    from invad_jax.data.folders import File

    calls = []
    core = names.mask_core
    monkeypatch.setattr(names, "mask_core", lambda stem: calls.append(1) or core(stem))
    for count in (100, 1000):
        calls.clear()
        images = [File(f"bad/{i}.png", ("bad",)) for i in range(count)]
        masks = [File(f"gt/bad/{i}_mask.png", ("gt", "bad")) for i in range(count)]
        assert len(mask_files.match(images, [], masks).masks) == count
        assert len(calls) <= 2 * count
