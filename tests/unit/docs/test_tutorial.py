"""The tutorial, cell by cell, on drawn images and with a tiny network; examples in Python."""

import contextlib
import csv
import json
import os
import re
import shlex
from pathlib import Path
from unittest import mock

import pytest

from tests.commands import PROJECT, TINY_MLP, Commands

SMALL = ("--set", *TINY_MLP, "encoder.weights=random", "train.num_steps=4")
DRAWN = 'procedural_root() / "disc"'
"""In place of photographs that have to be fetched."""


def cells() -> list[str]:
    notebook = json.loads((PROJECT / "docs" / "tutorial.ipynb").read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_shell(commands: Commands, lines: str) -> None:
    for line in lines.replace("\\\n", " ").splitlines():
        python, flag, module, *arguments = shlex.split(line)
        assert (python, flag) == ("python", "-m")
        verb = module.removeprefix("invad_jax.")
        commands.here(verb, *arguments, *(SMALL if verb == "train" else ()))


def run_python(commands: Commands, cell: str, names: dict) -> None:
    cell = cell.replace("import hazelnut_root", "import procedural_root")
    with contextlib.chdir(commands.folder), mock.patch.dict(os.environ, commands.environment):
        exec(cell.replace("hazelnut_root()", DRAWN), names)


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> Commands:
    """After all cells, one after the other."""
    commands, names = Commands(tmp_path_factory.mktemp("tutorial")), {}
    for cell in cells():
        shell = cell.removeprefix("%%bash\n")
        run_shell(commands, shell) if shell != cell else run_python(commands, cell, names)
    return commands


def test_the_tutorial_ends_with_decisions_and_a_file(commands):
    with (commands.folder / "decisions" / "predictions.csv").open(newline="") as stream:
        decisions = {row["decision"] for row in csv.DictReader(stream)}
    assert decisions <= {"normal", "anomalous"}
    assert (commands.folder / "nuts.invad").is_file()
    metrics = json.loads((commands.folder / "runs/nuts/eval/metrics.json").read_text())
    assert metrics


@pytest.mark.parametrize("page", ["README.md", "docs/line.md"])
def test_the_example_in_python_runs(page, commands, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (PROJECT / page).read_text(), re.S)
    example = re.sub(r'load\("[^"]+"\)', 'load("runs/nuts")', example)
    folder = commands.folder / "new_parts"
    run_python(commands, example, {"camera": lambda: sorted(folder.rglob("*.png"))[:2]})
    assert str(Path("new_parts") / "good") in capsys.readouterr().out
