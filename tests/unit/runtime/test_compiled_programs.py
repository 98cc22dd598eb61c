"""Where compiled programs are kept, and where not."""

import os
import stat
import subprocess
import sys

import pytest

from invad_jax.runtime import compiled_programs


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process that has not imported JAX, whose user has said nothing but where the cache is."""
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    for name in (compiled_programs.FOLDER, *compiled_programs.KEEP_ALL, "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "")  # so that it is as before, afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept_in():
    compiled_programs.keep()
    return os.environ.get(compiled_programs.FOLDER)


def test_a_folder_of_ones_own(fresh):
    folder = fresh / "compiled" / compiled_programs.key()
    assert kept_in() == str(folder.resolve())
    for path in (folder, folder.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


ASKS_JAX = """
from invad_jax.runtime import compiled_programs
compiled_programs.keep()
import jax
print(jax.config.jax_compilation_cache_max_size, jax.config.jax_compilation_cache_dir)
"""


def test_jax_is_told_how_large_the_folder_may_become(fresh):
    command = [sys.executable, "-c", ASKS_JAX]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert said == [str(compiled_programs.MAX_BYTES), kept_in()]


@pytest.mark.parametrize(("jaxlib", "level"), [("0.10.1", "3"), ("0.12.0", None)])
def test_one_release_warns_of_every_program(jaxlib, level, fresh, monkeypatch):
    monkeypatch.setattr(compiled_programs.importlib.metadata, "version", lambda name: jaxlib)
    assert kept_in()
    assert os.environ.get("TF_CPP_MIN_LOG_LEVEL") == level


def test_the_user_decides(fresh, monkeypatch):
    monkeypatch.setenv(compiled_programs.FOLDER, "/elsewhere")
    assert kept_in() == "/elsewhere"
    assert not fresh.exists()


def test_not_where_others_may_write(fresh):
    (fresh / "compiled").mkdir(parents=True)
    (fresh / "compiled").chmod(0o777)
    assert kept_in() is None


def test_not_where_nothing_can_be_written(fresh):
    fresh.write_text("a file")
    assert kept_in() is None


def test_not_once_jax_is_imported(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", object())
    assert kept_in() is None


def test_another_release_or_cpu_is_another_folder(monkeypatch):
    ours = compiled_programs.key()
    assert ours == compiled_programs.key()
    monkeypatch.setattr(compiled_programs, "_cpu", lambda: "another")
    assert compiled_programs.key() != ours
    monkeypatch.undo()
    monkeypatch.setattr(compiled_programs.importlib.metadata, "version", lambda name: "9")
    assert compiled_programs.key() != ours
