import os
import subprocess
import sys

import pytest

from invad_jax.errors import UserError
from invad_jax.io import paths
from tests.commands import PROJECT


@pytest.mark.parametrize("path", ["az://b/x", "hdfs://b", "gs:/b/x", "gs://", "https://x/y"])
def test_paths_elsewhere_are_refused(path):
    with pytest.raises(UserError, match=r"--out=.*only local paths, gs:// and s3:// are"):
        paths.require_known("--out", path)


@pytest.mark.parametrize("path", ["a/b", "/a", "C:/a", "a:b", "", "./gs://b", "gs://b", "s3://b/x"])
def test_local_paths_and_buckets_are_taken(path):
    paths.require_known("--out", path)


def test_an_option_may_take_no_bucket():
    with pytest.raises(UserError, match="--list=gs://b/x: only local paths are"):
        paths.require_known("--list", "gs://b/x", buckets=False)


def test_a_missing_extra_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'gs://b/x: needs gcsfs: pip install "invad-jax\[cloud\]"'):
        paths.to_path("gs://b/x")


def test_a_local_path_imports_nothing_for_buckets(tmp_path):
    code = """
import os, sys
from invad_jax.io import files
from invad_jax.io.paths import to_path
files.write_text("x.txt", "x")
files.read_bytes(to_path("x.txt"))
found = {name.partition(".")[0] for name in sys.modules}
print(sorted(found & {"fsspec", "etils", "gcsfs", "s3fs", "aiohttp", "botocore"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"
