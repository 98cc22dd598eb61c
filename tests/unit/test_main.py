"""The one command, and what a package of this consists of."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from invad_jax import __main__ as invad
from invad_jax import doctor, version
from invad_jax.config import io as config_io
from invad_jax.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())


def commands():
    """Modules at the top that have a `cli`."""
    for path in (PROJECT / "invad_jax").glob("*.py"):
        names = {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)}
        if "cli" in names and path.stem != "__main__":
            yield path.stem


def test_every_command_is_a_verb():
    assert set(commands()) == set(invad.VERBS)


def test_a_verb_gets_what_is_behind_it(monkeypatch, capsys):
    given = []
    monkeypatch.setattr(doctor, "cli", lambda argv: given.append(argv) or 7)
    assert invad.cli(["doctor", "--images", "3"]) == 7
    assert given == [["--images", "3"]]
    assert invad.cli(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version.__version__
    assert invad.cli([]) == 0
    assert "invad VERB" in capsys.readouterr().out
    assert invad.cli(["predit"]) == 2
    assert "did you mean predict" in capsys.readouterr().err


def test_a_config_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_io.load("folder").data.name == "folder"
    with pytest.raises(UserError, match="no such file"):
        config_io.load("folder.py")
    with pytest.raises(UserError, match="no such file"):
        config_io.load("fold")
    (tmp_path / "folder").write_text("")  # a file of one's own goes first
    with pytest.raises(UserError, match="not a Python file"):
        config_io.load("folder")


def test_extras_agree_with_the_requirements():
    pinned = (PROJECT / "requirements-test.txt").read_text()
    for requirement in PYPROJECT["project"]["optional-dependencies"]["test"]:
        assert re.search(rf"^{re.escape(requirement)}\s", pinned, re.MULTILINE), requirement


def test_the_citation_is_of_this_version():
    text = (PROJECT / "CITATION.cff").read_text()
    assert f"version: {version.__version__}\n" in text
    assert (PROJECT / "invad_jax" / "py.typed").is_file()


def test_doctor_says_what_there_is(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path))
    assert doctor.cli([]) == 0
    said = capsys.readouterr().out
    assert f"invad_jax {version.__version__}" in said
    assert f"cache: {tmp_path}" in said
    assert "weights here: none" in said
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path / "file"))
    assert doctor.cli([]) == 1
    assert "! cache: " in capsys.readouterr().out


def test_doctor_forecasts_a_training(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path))
    small = ["data.image_size=32", "encoder.stages=0", "encoder.pool=4", "denoiser.width=16"]
    arguments = ["--images", "50", "--set", *small, "denoiser.depth=1", "train.num_steps=7"]
    assert doctor.cli([*arguments, "train.warmup_steps=2", "denoiser.num_heads=2"]) == 0
    said = capsys.readouterr().out
    assert "training 50 images: about" in said
    assert "7 steps of" in said
