import os
from types import SimpleNamespace

import pytest

from invad_jax.errors import UnavailableError
from invad_jax.io import files, paths
from tests import emulators
from tests.emulators import BUCKET


@pytest.fixture(scope="module")
def gs():
    with emulators.used("gs"):
        yield


@pytest.fixture
def root(gs, tmp_path, monkeypatch, request):
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path / "cache"))
    return paths.to_path(f"gs://{BUCKET}/{request.node.name}")


def copies(tmp_path):
    return sorted(path for path in tmp_path.glob("cache/objects/??/*") if path.is_file())


def test_an_object_is_copied_once(root, tmp_path):
    files.write_text(root / "x.png", "1")
    for _ in range(2):
        with paths.open_binary(str(root / "x.png")) as stream:
            assert stream.read() == b"1"
    (copy,) = copies(tmp_path)
    copy.write_bytes(b"2")  # as only a copy can tell
    assert paths.local(root / "x.png").read_bytes() == b"2"


def test_another_content_is_another_copy(root, tmp_path):
    for content in ("1", "2"):
        files.write_text(root / "x", content)
        assert paths.local(root / "x").read_text() == content
    assert len(copies(tmp_path)) == 2


def test_what_was_listed_takes_no_request(root, monkeypatch):
    files.write_text(root / "x", "1")
    paths.note_files(root)
    monkeypatch.setattr(type(root), "_ask", None)
    assert paths.has_file(root / "x")
    assert paths.size_of(root / "x") == 1


def test_copies_take_half_of_what_is_free_and_the_oldest_go(root, tmp_path, monkeypatch):
    for name in "abc":
        files.write_text(root / name, "x" * 40)
    # two copies are 80 of 100 + 80 bytes; a third one makes 120 of 220, which is more than half
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    first, second = paths.local(root / "a"), paths.local(root / "b")
    os.utime(first, (2, 2))
    os.utime(second, (1, 1))
    third = paths.local(root / "c")
    assert copies(tmp_path) == sorted([first, third])


def test_what_a_kill_left_takes_no_room_for_ever(root, tmp_path, monkeypatch):
    left, new = (tmp_path / "cache/objects/ab" / f".partial-{name}" for name in ("old", "new"))
    for folder in (left, new):
        folder.mkdir(parents=True)
        (folder / "copy").write_bytes(b"half")
        os.utime(folder, (1, 1))  # it does not change while a file in it grows
    os.utime(left / "copy", (1, 1))
    files.write_text(root / "x", "all of it")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    assert paths.local(root / "x").read_text() == "all of it"
    assert not left.exists()
    assert new.exists()  # of a process that is at work


def test_a_missing_object_is_a_missing_file(root):
    with pytest.raises(FileNotFoundError, match=f"{root}/x"):
        paths.open_binary(str(root / "x"))


def test_a_full_disk_is_one_line(root, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    files.write_text(root / "x", "1")
    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    with pytest.raises(UnavailableError, match="cannot be written: No space left on device"):
        paths.local(root / "x")


def test_a_folder_is_a_folder_of_copies(root):
    files.write_text(root / "f" / "a.txt", "a")
    files.write_text(root / "f" / "b.txt", "b")
    here = paths.local_folder(root / "f")
    assert {path.name: path.read_text() for path in here.iterdir()} == {"a.txt": "a", "b.txt": "b"}
    assert paths.local_folder(root / "f") == here
