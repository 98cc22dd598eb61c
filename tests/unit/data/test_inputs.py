"""Which images are meant: each once, in order, and nothing dropped without a word."""

import os
from collections import Counter

import pytest

from invad_jax.data import inputs
from invad_jax.errors import UserError
from invad_jax.io import outputs


@pytest.fixture
def photos(tmp_path):
    """A folder with images, and with what is none."""
    for name in (
        "b.jpg",
        "a.PNG",
        "sub/c.tif",
        "notes.txt",
        "x",
        ".hidden.png",
        ".git/d.png",
        "@eaDir/b.jpg/THUMB.jpg",
        "$RECYCLE.BIN/e.png",
    ):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"x")
    return tmp_path / "photos"


def test_a_folder_is_taken_with_its_subfolders_and_the_rest_is_counted(photos):
    found = inputs.find([photos])
    assert found.names == ["a.PNG", "b.jpg", "sub/c.tif"]
    assert found.paths == [str(photos / name) for name in found.names]
    assert found.left_out == Counter(
        {"hidden": 4, "no image (.txt)": 1, "no image (no ending)": 1}
    )  # a folder counts once


def test_several_arguments_keep_their_order_and_each_file_is_taken_once(photos):
    found = inputs.find([photos / "x", photos / "b.jpg", photos, photos / "sub"])
    assert found.names == ["x", "b.jpg", "photos/a.PNG", "photos/sub/c.tif"]


def test_a_pattern_that_no_shell_has_expanded(photos):
    assert inputs.find([f"{photos}/*.jpg"]).names == ["b.jpg"]
    assert inputs.find([f"{photos}/**/*.tif"]).names == ["c.tif"]
    (photos / "part[1].jpg").write_bytes(b"x")
    assert inputs.find([photos / "part[1].jpg"]).names == ["part[1].jpg"]


def test_what_cannot_be_opened_is_named_with_its_reason(photos):
    os.symlink("nowhere.png", photos / "link.png")
    os.mkfifo(photos / "pipe.png")
    found = inputs.find([photos, photos / "gone.png"])
    reasons = {os.path.basename(found.paths[row]): text for row, text in found.unusable.items()}
    assert reasons == {
        "link.png": "a link that leads nowhere",
        "pipe.png": "not a file but a pipe, socket or device",
        "gone.png": "no such file or folder",
    }


def test_links_to_folders_are_followed_once(photos):
    os.symlink(photos, photos / "sub" / "loop")
    os.symlink(photos / "sub", photos / "again")
    found = inputs.find([photos])
    assert sorted(os.path.basename(path) for path in found.paths) == ["a.PNG", "b.jpg", "c.tif"]
    assert found.left_out["folder that is taken already"] == 2


def test_images_are_found_one_by_one_in_the_order_of_their_paths(photos):
    for name in ("sub/0.png", "sub.png", "sub-1/z.png", "sub/deep/a.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"x")
    found = [one.name for one in inputs.each([photos], Counter())]
    assert found == [
        "a.PNG", "b.jpg", "sub/0.png", "sub/c.tif", "sub/deep/a.png", "sub-1/z.png", "sub.png",
    ]  # fmt: skip
    assert found == inputs.find([photos]).names
    endless = iter(lambda: photos / "b.jpg", None)
    assert [next(inputs.each(endless, Counter())).name] == ["b.jpg"]


def test_the_images_of_a_prepared_data_set(photos, monkeypatch):
    rows = {"test": [{"path": "nut/0.png"}, {"path": "nut/1.png"}]}
    monkeypatch.setattr(inputs.records, "listing", {"/data/nuts": rows}.__getitem__)
    found = inputs.find(["/data/nuts/test.array_record", photos / "b.jpg"])
    assert found.names == ["nut/0.png", "nut/1.png", "b.jpg"]
    assert found.paths[0] == "/data/nuts/test.array_record/nut/0.png"
    assert not found.unusable


def test_what_a_command_drew_is_no_image(photos):
    outputs.claim(photos, "predict", ("overlays",))
    outputs.claim(photos / "sub", "predict", ("overlays",))
    for folder in (photos, photos / "sub"):
        (folder / "overlays").mkdir()
        (folder / "overlays" / "a.png").write_bytes(b"x")
    assert inputs.find([photos]).names == ["a.PNG", "b.jpg", "sub/c.tif"]
    shell = sorted(path for path in photos.iterdir() if path.name[0] not in ".@$")
    assert inputs.find(shell).names == ["a.PNG", "b.jpg", "notes.txt", "sub/c.tif", "x"]
    with pytest.raises(UserError, match="was written by invad_jax itself"):
        inputs.find([photos / "overlays"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "no such file or folder"), ("*.bmp", "no such file"),
        ("only", "holds no image; left out: 1 no image"), ("empty", "holds no image"),
    ],
)  # fmt: skip
def test_nothing_to_read_is_one_line(photos, name, message):
    (photos / "only").mkdir()
    (photos / "only" / "a.heic").write_bytes(b"x")
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        inputs.find([photos / name])
    assert str(photos / name) in str(caught.value)
