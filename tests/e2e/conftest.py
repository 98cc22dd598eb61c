"""Real processes: the commands as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
TINY = (
    "data.image_size=64", "denoiser.width=16", "denoiser.depth=1", "denoiser.num_heads=2",
    "train.batch_size=4", "train.num_steps=12", "train.warmup_steps=2",
    "train.checkpoint_every=4", "train.log_every=4", "eval.batch_size=8", "eval.num_examples=2",
)  # fmt: skip


class Commands:
    """Starts mains in a scratch folder with a cache of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {
            **os.environ, "INVAD_CACHE": str(folder / "cache"), "PYTHONPATH": str(PROJECT),
            # Dozens of processes compile the same few functions.
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }  # fmt: skip
        del self.environment["JAX_NUM_CPU_DEVICES"]

    def start(self, main: str, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", f"invad_jax.{main}", *arguments], cwd=self.folder,
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, main: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess:
        process = self.start(main, *arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == status, f"status {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def train(self, *assignments: str, workdir: str = "run", status: int = 0):
        config = str(PROJECT / "configs" / "procedural.py")
        return self.run(
            "train", "--config", config, "--workdir", workdir, "--set", *TINY, *assignments,
            status=status,
        )  # fmt: skip


@pytest.fixture(scope="session")
def commands(tmp_path_factory) -> Commands:
    return Commands(tmp_path_factory.mktemp("e2e"))


@pytest.fixture(scope="session")
def trained(commands) -> Path:
    """A trained workdir on the procedural set."""
    commands.train()
    return commands.folder / "run"
