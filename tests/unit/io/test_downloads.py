"""Archives: fetched by a stand-in for pip, verified, extracted safely, whole or not at all."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from invad_jax.errors import UserError
from invad_jax.io import downloads

CONTENT = b"an archive"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "thing-1.0.tar.gz"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class FakePip:
    """Stands for `pip download`: drops a file, or fails with pip's words."""

    def __init__(self, content=CONTENT, name=NAME, stderr=""):
        self.content, self.name, self.stderr = content, name, stderr
        self.commands: list[list[str]] = []
        self.requirements: list[str] = []

    def __call__(self, command, **_):
        self.commands.append(command)
        self.requirements.append(Path(command[command.index("--requirement") + 1]).read_text())
        if self.stderr:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        Path(command[command.index("--dest") + 1], self.name).write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


def fetch(monkeypatch, pip, glob=NAME):
    monkeypatch.setattr(downloads.subprocess, "run", pip)
    return downloads.from_package_index("thing==1.0", glob, SHA256)


def refusal(monkeypatch, pip, glob=NAME):
    with pytest.raises(UserError) as error:
        fetch(monkeypatch, pip, glob)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_cache_dir_follows_the_environment(cache, monkeypatch):
    assert downloads.cache_dir() == cache
    monkeypatch.delenv("INVAD_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    assert downloads.cache_dir() == Path("/home/someone/.cache/invad_jax")


def test_an_archive_is_fetched_once(cache, monkeypatch):
    pip = FakePip()
    first, second = fetch(monkeypatch, pip), fetch(monkeypatch, pip)
    assert first == second == cache / "archives" / NAME
    assert first.read_bytes() == CONTENT
    assert len(pip.commands) == 1
    assert [p.name for p in first.parent.iterdir()] == [NAME]  # no temporary folder is left


def test_pip_runs_with_this_python_and_checks_the_hash_itself(monkeypatch):
    pip = FakePip()
    fetch(monkeypatch, pip)
    assert pip.commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--require-hashes" in pip.commands[0]
    assert pip.requirements == [f"thing==1.0 --hash=sha256:{SHA256}\n"]


@pytest.mark.parametrize(
    ("name", "option"), [(NAME, "--no-binary"), ("thing-1.0-py3-none-any.whl", "--only-binary")]
)
def test_the_file_name_says_which_form_is_asked_for(monkeypatch, name, option):
    pip = FakePip(name=name)
    fetch(monkeypatch, pip, name)
    assert pip.commands[0][pip.commands[0].index(option) + 1] == "thing"


def test_a_file_put_by_hand_needs_no_pip(cache, monkeypatch):
    (cache / "archives").mkdir(parents=True)
    (cache / "archives" / NAME).write_bytes(CONTENT)
    pip = FakePip(stderr="ERROR: offline")
    assert fetch(monkeypatch, pip, "thing-*.tar.gz").name == NAME
    assert not pip.commands


def test_a_damaged_file_in_the_cache_is_fetched_again(cache, monkeypatch):
    (cache / "archives").mkdir(parents=True)
    (cache / "archives" / NAME).write_bytes(CONTENT[:-1])
    assert fetch(monkeypatch, FakePip()).read_bytes() == CONTENT


def test_other_content_is_refused_and_not_kept(cache, monkeypatch):
    message = refusal(monkeypatch, FakePip(content=b"something else"))
    assert "thing==1.0" in message
    assert SHA256 in message
    assert list((cache / "archives").iterdir()) == []


def test_a_hash_refused_by_pip_reads_the_same(monkeypatch):
    pip = FakePip(stderr="ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS")
    assert "another SHA-256" in refusal(monkeypatch, pip)


def test_offline_says_where_to_put_the_file(cache, monkeypatch):
    pip = FakePip(stderr="WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching")
    message = refusal(monkeypatch, pip)
    assert "Could not find a version" in message
    assert str(cache / "archives" / NAME) in message


def test_an_environment_without_pip_is_named(monkeypatch):
    message = refusal(monkeypatch, FakePip(stderr=f"{sys.executable}: No module named pip\n"))
    assert "ensurepip" in message
    assert NAME in message


def test_an_unexpected_file_is_refused(monkeypatch):
    assert f"brought no {NAME}" in refusal(monkeypatch, FakePip(name="other.zip"))


def test_an_unwritable_cache_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path / "file"))
    assert "INVAD_CACHE" in refusal(monkeypatch, FakePip())


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


MAKERS = {"a.tar.gz": make_tar, "a.whl": make_zip}


@pytest.fixture(params=MAKERS)
def make(request, tmp_path):
    return lambda members: MAKERS[request.param](tmp_path / request.param, members)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_the_files_under_the_prefix_are_extracted(make, tmp_path):
    archive = make({"p/in/a.txt": b"a", "p/in/sub/b.txt": b"b", "p/inner/c": b"c", "p/d": b"d"})
    target = downloads.extract_members(archive, "p/in", tmp_path / "out" / "target")
    assert tree(target) == {"a.txt": b"a", "sub/b.txt": b"b"}
    assert [p.name for p in target.parent.iterdir()] == ["target"]


def test_an_existing_folder_is_left_alone(make, tmp_path):
    (tmp_path / "target").mkdir()
    downloads.extract_members(make({"p/a": b"a"}), "p", tmp_path / "target")
    assert tree(tmp_path / "target") == {}


@pytest.mark.parametrize("name", ["p/../../evil", "p//etc/evil", "p/..\\evil", "p/C:evil"])
def test_names_that_lead_out_are_refused(make, tmp_path, name):
    archive = make({"p/a": b"a", name: b"evil"})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="leads out"):
        downloads.extract_members(archive, "p", tmp_path / "target")
    assert set(tmp_path.rglob("*")) == before


def test_links_are_refused_under_the_prefix_only(tmp_path):
    archive = make_tar(tmp_path / "a.tar.gz", {"p/a": b"a", "q/link": None})
    assert tree(downloads.extract_members(archive, "p", tmp_path / "ok")) == {"a": b"a"}
    with pytest.raises(UserError, match="link"):
        downloads.extract_members(archive, "q", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_a_damaged_archive_leaves_nothing(make, tmp_path):
    archive = make({f"p/{i}": bytes([i]) * 4000 for i in range(50)})
    archive.write_bytes(archive.read_bytes()[:-400])
    with pytest.raises(UserError, match="cannot be extracted"):
        downloads.extract_members(archive, "p", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_prefix_that_holds_nothing_is_an_error(make, tmp_path):
    with pytest.raises(UserError, match="no files under q"):
        downloads.extract_members(make({"p/a": b"a"}), "q", tmp_path / "target")


def test_a_folder_is_whole_even_if_another_process_was_first(tmp_path):
    target = tmp_path / "target"
    with downloads.whole_folder(target) as folder:
        (folder / "mine").write_text("mine")
        target.mkdir()
        (target / "theirs").write_text("theirs")
    assert tree(target) == {"theirs": b"theirs"}


def test_a_folder_that_fails_halfway_does_not_appear(tmp_path):
    def fail_halfway():
        with downloads.whole_folder(tmp_path / "target") as folder:
            (folder / "half").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_a_user_without_a_home_has_a_cache_of_their_own(monkeypatch, tmp_path):
    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("INVAD_CACHE", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr(downloads.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = downloads.cache_dir()
    assert folder == tmp_path / f"invad_jax-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert downloads.cache_dir() == folder
    folder.rmdir()
    folder.symlink_to(tmp_path)  # as another user may have made it
    with pytest.raises(UserError, match="INVAD_CACHE names another folder"):
        downloads.cache_dir()
    monkeypatch.setenv("INVAD_CACHE", "az://bucket")
    with pytest.raises(UserError, match="only local paths"):
        downloads.cache_dir()
