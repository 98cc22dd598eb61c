"""Equations name what computes them, links lead somewhere, the site builds."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from tests.commands import PROJECT
from tests.unit.docs.test_commands import PAGES, names

NAME = re.compile(r"\(#(invad_jax[\w.]*)\)")
EQUATION = re.compile(r"^\$\$\n.*?^\$\$\n", re.M | re.S)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("page", ["method.md", "metrics.md"])
def test_each_equation_names_what_computes_it(page: str):
    _, *behind = EQUATION.split((PROJECT / "docs" / page).read_text())
    assert len(behind) > 1
    for text in behind:
        near = " ".join(text.split("\n\n")[:2])  # it may say first what the symbols are
        assert any(callable(resolve_name(name)) for name in NAME.findall(near)), near


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_somewhere(page: Path):
    text = prose(page)
    for name in NAME.findall(text):
        resolve_name(name)
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


def test_the_site_has_every_page():
    """Sphinx would warn, where it is installed."""
    listed = (PROJECT / "docs" / "index.md").read_text().splitlines()
    pages = {page.stem for page in PROJECT.glob("docs/*.md")} - {"index"}
    assert pages <= set(listed), "name it below a toctree of docs/index.md"


def test_the_picture_is_small():
    assert (PROJECT / "docs" / "hazelnut.png").stat().st_size < 200_000
    assert "](docs/hazelnut.png)" in (PROJECT / "README.md").read_text()


@pytest.mark.skipif(not importlib.util.find_spec("myst_nb"), reason="needs requirements-docs.txt")
def test_the_site_builds_without_a_warning(tmp_path: Path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", tmp_path]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "invad_jax.diffusion.inversion.euler_step" in (tmp_path / "method.html").read_text()
