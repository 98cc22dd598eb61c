"""What pathlib promises of a disk, of buckets; and what a store may answer."""

import fsspec
import pytest

from invad_jax.errors import UserError
from invad_jax.io import bucket, files, outputs
from invad_jax.io.paths import to_path
from tests import emulators
from tests.emulators import BUCKET


@pytest.fixture(scope="module", params=["gs", "s3"])
def store(request):
    """The scheme and the URL of an emulator, and what makes clients use one."""
    gs = request.param == "gs"
    with (emulators.cloud_storage if gs else emulators.s3)() as url:
        yield request.param, url, emulators.environment_of_gs if gs else emulators.environment_of_s3


@pytest.fixture
def use(monkeypatch):
    """Makes the clients of this process use a store."""

    def use(environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for scheme in ("gcs", "gs", "s3"):
            fsspec.get_filesystem_class(scheme).clear_instance_cache()

    return use


@pytest.fixture
def root(store, use, request):
    """A prefix of its own for each test."""
    scheme, url, environment = store
    use(environment(url))
    return to_path(f"{scheme}://{BUCKET}/{request.node.name.partition('[')[0]}")


def test_files_are_written_listed_read_and_deleted(root, tmp_path):
    files.write_text(root / "a" / "b.txt", "b")
    files.write_json(root / "c.json", {"x": 1})
    assert (root / "a").is_dir()
    assert not (root / "a").is_file()
    assert (root / "c.json").is_file()
    assert not (root / "nothing").exists()
    assert [path.name for path in root.iterdir()] == ["a", "c.json"]
    assert [path.name for path in root.rglob("*")] == ["b.txt", "c.json"]
    assert [str(path) for path in root.glob("*/*.txt")] == [f"{root}/a/b.txt"]
    assert files.read_json(root / "c.json") == {"x": 1}
    with (root / "a" / "b.txt").open(encoding="utf-8") as stream:
        assert stream.read() == "b"
    (tmp_path / "a").mkdir()
    for name in ("a/b.txt", "c.json"):
        (root / name).download(tmp_path / name)
    assert files.digests(root) == files.digests(tmp_path)
    (root / "c.json").unlink()
    assert [path.name for path in root.iterdir()] == ["a"]
    root.rmtree()
    assert not root.exists()


def test_what_fails_leaves_the_object_as_it_was(root):
    files.write_text(root / "x", "before")
    with pytest.raises(UserError), files.replaced(root / "x") as temporary:
        raise UserError(f"{temporary}: half")
    assert files.read_bytes(root / "x") == b"before"


def test_a_large_object_is_read_in_parts(root, monkeypatch, tmp_path):
    monkeypatch.setattr(bucket, "MOST_HELD", 1000)
    content = bytes(range(256)) * 20
    with files.replaced(root / "large") as temporary:
        temporary.write_bytes(content)
    with (root / "large").open("rb") as stream:
        assert stream.seek(-10, 2) == len(content) - 10
        assert stream.read() == content[-10:]
        assert stream.seek(0) == 0
        assert stream.read() == content


def test_a_new_folder_is_uploaded_with_its_own_files_last(root):
    order = []
    upload = bucket.BucketPath.upload
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bucket.BucketPath, "upload", lambda self, p: (order.append(self.name), upload(self, p))
        )
        with files.new_folder(root / "new") as folder:
            (folder / "config.json").write_text("{}")
            (folder / "deep").mkdir()
            (folder / "deep" / "x").write_text("x")
    assert order == ["x", "config.json"]
    with pytest.raises(UserError, match="exists already"), files.new_folder(root / "new"):
        pass


def test_what_a_command_wrote_is_known(root):
    outputs.claim(root, "predict", ("table.csv",))
    files.write_text(root / "table.csv", "x")
    assert outputs.is_written(root / "table.csv")
    outputs.claim(root, "predict", ("table.csv",))
    with pytest.raises(UserError, match="was not written by eval"):
        outputs.claim(root, "eval", ("table.csv",))


def test_what_grows_is_uploaded_now_and_then(root, monkeypatch):
    growing = files.Growing(root)
    (growing.folder / "rows").write_text("1")
    growing.update()
    assert not (root / "rows").exists()
    monkeypatch.setattr(files.Growing, "EVERY_S", 0)
    growing.update()
    assert files.read_bytes(root / "rows") == b"1"
    (growing.folder / "rows").write_text("12")
    growing.close()
    assert files.read_bytes(root / "rows") == b"12"


def test_a_missing_object_is_one_line(root):
    with pytest.raises(UserError, match=f"{root}/x: cannot be read: No such file"):
        files.read_bytes(root / "x")
    with pytest.raises(FileNotFoundError):
        (root / "x").open("rb")


def test_a_truncated_object_is_one_line(root, monkeypatch):
    files.write_text(root / "x", "12345")
    monkeypatch.setattr(bucket, "_FIRST_PAUSE_S", 0)
    monkeypatch.setattr(bucket.BucketPath, "size", lambda self: 9)
    with pytest.raises(UserError, match=r"/x: EOFError: 5 bytes came, of 9"):
        files.read_bytes(root / "x")
