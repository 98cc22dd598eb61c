"""Files that come into a folder: taken when they are whole, once, and again when they change."""

import errno
import os
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from invad_jax.config import DataConfig
from invad_jax.errors import UserError
from invad_jax.evaluation import arriving
from invad_jax.evaluation.arriving import PATIENCE, QUIET, Folders


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "camera"
    path.mkdir()
    return path


@pytest.fixture
def watched(folder):
    return Folders([str(folder)], DataConfig(image_size=8))


def names(arrivals):
    return [one.name for one in arrivals]


def test_a_file_is_taken_once_when_it_is_quiet(watched, folder, picture):
    shutil.copy(picture, folder / "a.png")
    (folder / "notes.txt").write_text("x")
    assert watched.look(0) == []
    assert watched.look(QUIET / 2) == []
    assert names(watched.look(QUIET)) == ["a.png"]
    assert watched.look(9) == []


def test_a_file_that_grows_is_waited_for(watched, folder, picture):
    data = picture.read_bytes()
    (folder / "a.png").write_bytes(data[:100])
    watched.look(0)
    (folder / "a.png").write_bytes(data[:200])
    assert watched.look(QUIET) == []  # has changed
    assert watched.look(2 * QUIET) == []  # is quiet, and not whole
    (folder / "a.png").write_bytes(data)
    watched.look(3 * QUIET)
    assert names(watched.look(4 * QUIET)) == ["a.png"]


def test_what_never_becomes_an_image_is_said_in_the_end(watched, folder):
    (folder / "a.png").write_bytes(b"no image")
    watched.look(0)
    assert watched.look(QUIET) == []
    assert names(watched.look(QUIET + PATIENCE)) == ["a.png"]
    assert watched.look(QUIET + 2 * PATIENCE) == []


def test_another_content_under_the_same_name_is_another_image(watched, folder, picture):
    shutil.copy(picture, folder / "latest.png")
    watched.look(0)
    assert names(watched.look(QUIET)) == ["latest.png"]
    Image.new("RGB", (8, 8)).save(folder / "latest.png")
    watched.look(10)
    assert names(watched.look(10 + QUIET)) == ["latest.png"]


def test_a_file_that_goes_is_forgotten(watched, folder, picture):
    shutil.copy(picture, folder / "a.png")
    watched.look(0)
    watched.look(QUIET)
    (folder / "a.png").unlink()
    assert watched.look(2) == []
    shutil.copy2(picture, folder / "a.png")
    watched.look(3)
    assert names(watched.look(3 + QUIET)) == ["a.png"]


def test_a_share_that_is_away_is_told_and_nothing_comes_twice(
    watched, folder, picture, monkeypatch, caplog
):
    shutil.copy(picture, folder / "a.png")
    watched.look(0)
    assert names(watched.look(QUIET)) == ["a.png"]
    scandir = os.scandir

    def stale(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "scandir", stale)
    assert watched.look(2) == watched.look(3) == []
    assert (
        watched.trouble == f"what lies there waits: {folder}: cannot be listed: Stale file handle"
    )
    monkeypatch.setattr(os, "scandir", scandir)
    stat = os.stat

    def partly_stale(path, **how):
        return stale(path) if str(path) == str(folder / "a.png") else stat(path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", partly_stale)
        assert watched.look(4) == []
    assert "a.png: Stale file handle" in watched.trouble
    assert watched.look(5) == watched.look(5 + QUIET) == []
    assert watched.trouble is None
    shutil.copy(picture, folder / "b.png")
    watched.look(10)  # has begun to be quiet when the share goes
    monkeypatch.setattr(os, "scandir", stale)
    assert watched.look(11) == []
    monkeypatch.setattr(os, "scandir", scandir)
    assert watched.look(30) == []  # quiet anew from here on
    assert names(watched.look(30 + QUIET)) == ["b.png"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4
    assert said[1] == "the folders that are watched can be listed again"


def test_a_stream_that_breaks_gives_what_came_before_and_is_told():
    def lines():
        yield "a.png\n"
        raise OSError("gone")

    stream = arriving.on_stream(lines(), at_most=2)
    assert names(next(stream)) == ["a.png"]
    with pytest.raises(UserError, match="the standard input: cannot be read: gone"):
        list(stream)


def test_a_path_on_a_stream_is_not_kept_waiting():
    ready = threading.Event()

    def lines():
        yield "a.png\n"
        assert ready.wait(60)  # comes only when the first is through
        yield "b.png\n"
        yield "deeper/c.png\n"

    stream = arriving.on_stream(lines(), at_most=2)
    assert names(next(stream)) == ["a.png"]
    ready.set()
    rest = [name for some in stream for name in names(some)]
    assert rest == ["b.png", "c.png"]
