"""A score term, an option and a command of one's own, added to a copy of the package the way
CONTRIBUTING says: in the files that it names, and in no other."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


class Extended:
    """A copy of the package that things are added to."""

    def __init__(self, folder: Path):
        self.folder = folder
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / "invad_jax", folder / "invad_jax", ignore=skipped)
        (folder / "tests" / "unit").mkdir(parents=True)
        shutil.copy(PROJECT / "tests" / "unit" / "test_imports.py", folder / "tests" / "unit")
        shutil.copytree(PROJECT / "configs", folder / "configs", ignore=skipped)

    def add(self, file: str, before: str, line: str) -> None:
        """Puts a line before another one that the file has once."""
        path = self.folder / file
        text = path.read_text()
        assert text.count(before) == 1, (file, before)
        path.write_text(text.replace(before, f"{line}{before}"))

    def run(self, *arguments: str, status: int = 0) -> str:
        """What Python prints there."""
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def extended(tmp_path, monkeypatch):
    monkeypatch.setenv("INVAD_CACHE", str(tmp_path / "cache"))
    return Extended(tmp_path / "copy")


TERM = """
import csv, json, sys
from invad_jax import eval, predict, train
from tests.commands import TINY_MLP, training
tiny = [*TINY_MLP, "train.num_steps=4", "scoring.terms=map_std"]
assert train.cli(training("run", tiny=tiny)[1:]) == 0
assert eval.cli(["--workdir", "run", "--no-speed"]) == 0
with open("run/eval/scores.csv") as stream:
    rows = list(csv.DictReader(stream))
assert json.load(open("run/eval/metrics.json"))["terms"] == ["map_std"]
import invad_jax
detector = invad_jax.load("run")
result = detector.predict([rows[0]["path"]])
from invad_jax.sweeps.table import COLUMNS
assert ("I-AUROC, std alone", "map_std", "i_auroc") in COLUMNS
print("RESULT", rows[0]["map_std"], float(result[0].latent_norm.std()), result[0].terms["map_std"])
"""


def test_a_score_term(extended):
    extended.add("invad_jax/scoring.py", "    component: jax.Array\n", "    map_std: jax.Array\n")
    extended.add(
        "invad_jax/scoring.py",
        "        component=jnp.zeros(nll.shape",
        "        map_std=jnp.std(flat, axis=1, where=among),\n",
    )
    extended.add("invad_jax/config/options.py", '"nll", "map_range", "map_mean"', '"map_std", ')
    extended.add(
        "invad_jax/inference/predictions.py", "    nll: np.ndarray\n", "    map_std: np.ndarray\n"
    )
    extended.add(
        "invad_jax/inference/exporting.py", '    "map_max": ', '    "map_std": "its spread",\n'
    )
    extended.add(
        "invad_jax/report/tables.py", '    "nll": "NLL', '    "map_std": "spread of the map",\n'
    )
    for name in ("__init__.py", "commands.py"):
        shutil.copy(PROJECT / "tests" / name, extended.folder / "tests")
    said = extended.run("-c", TERM).splitlines()
    (found,) = [line.split()[1:] for line in said if line.startswith("RESULT")]
    in_table, of_map, in_terms = map(float, found)
    # One image, of a batch in `eval`: float32 sums in another order.
    assert in_table == pytest.approx(of_map, rel=1e-4)
    assert in_terms == pytest.approx(of_map, rel=1e-4)


OPTION = """
import json
import numpy as np
from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.errors import UserError
from invad_jax.paradigms import paradigm_of

def refused(*assignments):
    try:
        override(Config(), assignments)
    except UserError as error:
        return str(error)

x0 = np.ones((1, 2, 2, 1), np.float32)
def x_T(*assignments):
    config = override(Config(), ["inversion.solver=angle", *assignments])
    return np.asarray(paradigm_of(config).states(lambda x, t: 0 * x, x0)).ravel()[0]

print(json.dumps([
    float(x_T("inversion.damping=0.5") / x_T()),
    refused("inversion.solver=angle", "inversion.damping=2"),
    refused("inversion.damping=0.5"),
]))
"""


def test_an_option(extended):
    extended.add(
        "invad_jax/config/options.py",
        "    noise_ratio: float",
        '    damping: float = free(1.0, "inversion.solver=angle")\n    """Of x_T."""\n',
    )
    extended.add(
        "invad_jax/config/ranges.py",
        '"inversion.noise_ratio"',
        '"inversion.damping": Range(0, 1),\n    ',
    )
    extended.add(
        "invad_jax/paradigms/inversion.py",
        "        return x_T / factor",
        "        x_T = config.inversion.damping * x_T\n",
    )
    ratio, out_of_range, unread = json.loads(extended.run("-c", OPTION))
    assert ratio == 0.5  # a power of two
    assert out_of_range == "inversion.damping=2.0: must be at most 1"
    assert unread.startswith("inversion.damping=0.5: would have no effect; it is read where inv")


COMMAND = '''"""Says how large the images of an experiment are.

    python -m invad_jax.hello --config configs/folder.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from invad_jax.runtime import cli as command_line


def main(args: argparse.Namespace) -> None:
    """Prints a number."""
    config = command_line.config_of(args)
    from invad_jax.encoders import describe_encoder

    _, encoder = describe_encoder(config.encoder, config.data.image_size)
    print(config.data.image_size, encoder.latent_shape)


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_config()
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
'''


def test_a_command(extended):
    (extended.folder / "invad_jax" / "hello.py").write_text(COMMAND)
    extended.add("tests/unit/test_imports.py", '"plan", "export"', '"hello", ')
    extended.add("invad_jax/__main__.py", '    "plan": ', '    "hello": "the size of images",\n')
    command = ("-m", "invad_jax", "hello")
    assert "Says how large" in extended.run(*command, "--help")
    config = (*command, "--config", "configs/folder.py")
    assert extended.run(*config, "--set", "data.image_size=64").startswith("64 (4, 4, ")
    said = extended.run(*config, "--set", "data.image_sise=64", status=2)
    assert said.startswith("error: --set data.image_sise: unknown option; did you mean data.image_")
    assert said.count("\n") == 1
    heavy = "import sys, invad_jax.hello; assert 'jax' not in sys.modules"
    extended.run("-c", heavy)
    floors = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    assert " passed" in extended.run(*floors, "tests/unit/test_imports.py", "-k", "floor or circle")
