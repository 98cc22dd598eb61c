"""Every command says `--help` and refuses an option without importing any heavy library."""

import json
import os
import subprocess
import sys

import pytest

from tests.commands import PROJECT
from tests.unit.test_imports import COMMANDS

HEAVY = ("jax", "torch", "tensorflow", "matplotlib", "tensorboardX", "scipy.stats")
PROGRAM = """
import contextlib, importlib, io, json, sys
for command in sys.argv[1:]:
    cli, printed = importlib.import_module(f"invad_jax.{command}").cli, io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli(["--help"])
    with contextlib.redirect_stderr(printed):
        status = cli(["--no-such-option"])
    assert "usage:" in printed.getvalue() and "error: " in printed.getvalue(), command
    assert status == 2, command
    options = {"plan": ["--topology", "v4:2x2x2"], "predict": ["--input", "x", "--out", "y"]}
    if command in ("train", "eval", "train_vae", "sweep", "plan", "predict"):
        arguments = ["--config", "configs/procedural.py", *options.get(command, [])]
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            status = cli([*arguments, "--set", "inversion.num_step=1"])
        assert status == 2 and "inversion.num_steps" in printed.getvalue(), command
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def modules():
    """What is imported after every command was asked for help and refused an option."""
    program = [sys.executable, "-c", PROGRAM, *sorted(COMMANDS - {"__main__"})]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("library", HEAVY)
def test_no_command_starts_slowly(modules, library):
    assert library not in modules


def test_a_program_that_imports_the_package_keeps_its_ctrl_c(tmp_path):
    (tmp_path / "line").mkdir()
    (tmp_path / "line" / "__init__.py").write_text("import invad_jax\n")
    said = "import signal\nprint(signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n"
    (tmp_path / "line" / "app.py").write_text(said)
    program = [sys.executable, "-m", "line.app"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "True\n"
