"""What pathlib promises of a disk, of buckets; and what a store may answer."""

import glob
from types import SimpleNamespace

import pytest

from invad_jax.errors import UnavailableError, UserError
from invad_jax.io import files, outputs
from invad_jax.io.paths import to_path
from tests import emulators
from tests.emulators import BUCKET, Faults

bucket = pytest.importorskip("invad_jax.io.bucket", reason="the extra [cloud] is missing")


@pytest.fixture(scope="module", params=["gs", "s3"])
def scheme(request):
    with emulators.used(request.param):
        yield request.param


@pytest.fixture
def root(scheme, request):
    """A prefix of its own for each test."""
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
    (root / "d").write_text("\u00e4")
    assert (root / "d").read_bytes() == b"\xc3\xa4"
    (root / "d").unlink()
    (tmp_path / "a").mkdir()
    for name in ("a/b.txt", "c.json"):
        (root / name).download(tmp_path / name)
    assert files.digests(root) == files.digests(tmp_path)
    (root / "c.json").unlink()
    assert [path.name for path in root.iterdir()] == ["a"]
    root.rmtree()
    assert not root.exists()


def test_an_object_takes_the_place_of_another(root):
    for name in ("old", "new"):
        (root / name).write_text(name)
    assert (root / "new").is_file()
    (root / "new").replace(root / "old")
    assert not (root / "new").exists()
    assert (root / "old").read_bytes() == b"new"
    with pytest.raises(FileNotFoundError):
        (root / "new").replace(root / "old")


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b""])
def test_every_byte_arrives(root, end):
    """gcsfs frames an upload by line feeds."""
    with files.replaced(root / "x") as temporary:
        temporary.write_bytes(b"12" + end)
    with (root / "y").open("wb") as stream:
        stream.write(b"12" + end)
    assert files.read_bytes(root / "x") == files.read_bytes(root / "y") == b"12" + end


def test_an_object_is_created_once(root, monkeypatch):
    assert (root / "x").create(b"1")
    assert (root / "x").create(b"1")  # as if the first answer had been lost
    assert not (root / "x").create(b"2")

    def gone(path):
        raise FileNotFoundError

    monkeypatch.setattr(type(root), "read_bytes", gone)  # deleted meanwhile by its owner
    assert not (root / "x").create(b"2")


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
            (folder / "records").write_text("r")
            (folder / "deep").mkdir()
            (folder / "deep" / "x").write_text("x")
    assert order == ["x", "records", "config.json"]
    with (
        pytest.raises(UserError, match="exists already, whole or in part"),
        files.new_folder(root / "new"),
    ):
        pass


@pytest.mark.parametrize(
    "pattern",
    ["**/*.png", "a/**/*.png", "*.png", "**/b/*", "a/*/*.png", ".*", "**/.x.png", "**", "a/**"],
)
def test_a_pattern_finds_what_it_finds_on_a_disk(root, tmp_path, pattern):
    for name in ("0.png", "a/1.png", "a/b/2.png", "a/b/c/3.png", ".x.png", "a/.x.png", ".h/4.png"):
        files.write_text(root / "tree" / name, "x")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = glob.glob(pattern, root_dir=tmp_path, recursive=True)
    here = [name for name in found if not name.endswith("/")]  # the folder that is looked into
    there = [str(path) for path in (root / "tree").glob(pattern)]
    assert sorted(f"{root}/tree/{name}" for name in here) == sorted(there)


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
    with pytest.raises(UnavailableError, match=r"/x: EOFError: 5 bytes came, of 9"):
        files.read_bytes(root / "x")


@pytest.mark.parametrize(("of", "status"), [("gs", "401"), ("s3", "403")])
def test_what_is_refused_names_the_ways_to_log_in(of, status):
    refused = f"{of}://bucket/x: no credentials .*; (gcloud auth|aws configure)"
    with emulators.used(of, Faults(1, kinds=(status,))), pytest.raises(UserError, match=refused):
        files.read_bytes(f"{of}://{BUCKET}/x")


def test_no_credentials_at_all_are_one_line(monkeypatch, tmp_path):
    with emulators.used("s3"):
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        with pytest.raises(UserError, match=r"no credentials .*NoCredentialsError.*aws configure"):
            files.read_bytes(f"s3://{BUCKET}/x")


async def _at_once(seconds):
    """No pause."""


@pytest.mark.parametrize("kind", emulators.KINDS)
@pytest.mark.parametrize("of", ["gs", "s3"])
def test_what_goes_wrong_is_asked_again(of, kind, monkeypatch):
    """One request of five fails; the seed has no two in a row, which would take seconds."""
    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=_at_once))
    faults = Faults(5, seed=10, kinds=(kind,))
    with emulators.used(of, faults, silence_s=0.1):
        root = to_path(f"{of}://{BUCKET}/asked_again")
        for name in "abcd":
            files.write_text(root / name, name * 100)
        assert [files.read_bytes(path) for path in root.iterdir()] == [
            name.encode() * 100 for name in "abcd"
        ]
    assert faults.count[kind] > 1


@pytest.mark.parametrize(
    ("faults", "said"), [(None, "Cannot connect"), (Faults(1, kinds=("503",)), "503")]
)
def test_a_store_that_stays_away_is_one_line(monkeypatch, caplog, faults, said):
    """Nothing listens there, or somebody who has no time."""
    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=_at_once))
    with emulators.used("gs", faults):
        if not faults:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
        with pytest.raises(UnavailableError, match=f"gs://bucket/x: .*{said}"):
            files.read_bytes(f"gs://{BUCKET}/x")
    assert caplog.records == []


@pytest.mark.parametrize("of", ["gs", "s3"])
def test_silence_is_no_answer(of, monkeypatch):
    patience = bucket.aiohttp.ClientTimeout(sock_read=0.2)
    monkeypatch.setitem(bucket.fsspec.config.conf["gcs"], "requests_timeout", patience)
    monkeypatch.setitem(bucket.fsspec.config.conf["s3"], "config_kwargs", {"read_timeout": 0.2})
    faults = Faults(5, seed=10, kinds=("silence",))
    with emulators.used(of, faults, silence_s=1.5):
        for name in "ab":
            files.write_text(f"{of}://{BUCKET}/{name}", name)
            assert files.read_bytes(f"{of}://{BUCKET}/{name}") == name.encode()
    assert faults.count["silence"] > 0


def test_digests_take_a_listing_and_a_request_for_each_object():
    faults = Faults(0)
    with emulators.used("gs", faults):
        root = to_path(f"gs://{BUCKET}/digests")
        for name in ("a", "b/c", "b/d"):
            files.write_text(root / name, name)
        requests = []
        for _ in range(3):  # what asks for the size of what was written may come late, but once
            faults.asked.clear()
            assert files.digests(root).keys() == {"a", "b/c", "b/d"}
            requests.append(len(faults.asked))
        assert min(requests) == 1 + 3


def test_a_path_is_one_within_its_bucket():
    path = to_path("gs://bucket/a/b.txt")
    assert [str(parent) for parent in path.parents] == ["gs://bucket/a", "gs://bucket"]
    assert str(path.parent / "c") == "gs://bucket/a/c"
    assert path.suffix == ".txt"
    assert path.absolute() == path == to_path(path)


def test_a_bucket_that_is_not_there_is_one_line(scheme):
    with pytest.raises(UserError, match=f"{scheme}://nowhere/x: cannot be written: no such bucket"):
        files.write_text(f"{scheme}://nowhere/x", "x")
