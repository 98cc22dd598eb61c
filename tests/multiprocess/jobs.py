"""Jobs of several processes on this machine, started as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import jax

from invad_jax.inference.model import load

PROJECT = Path(__file__).resolve().parents[2]
LAUNCHER = str(PROJECT / "launch" / "cpu_processes.sh")
CONFIG = str(PROJECT / "configs" / "procedural.py")
TINY = (
    "data.image_size=32", "encoder.stages=0", "encoder.pool=4", "denoiser.name=mlp",
    "denoiser.width=64", "denoiser.depth=1", "train.batch_size=8", "train.warmup_steps=2",
    "train.log_every=20", "eval.batch_size=32", "eval.num_examples=1",
)  # fmt: skip


class Jobs:
    """Starts jobs in one folder; they share a cache and what they compile."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {
            **os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(PROJECT),
            "JAX_PLATFORMS": "cpu", "INVAD_CACHE": str(folder / "cache"),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }  # fmt: skip

    def start(self, processes: int, *arguments: str, devices: int = 2) -> subprocess.Popen[str]:
        """`python -m invad_jax.<arguments>`, `processes` of them with `devices` in all."""
        environment = self.environment | {"JAX_NUM_CPU_DEVICES": str(devices // processes)}
        command = [LAUNCHER, str(processes)] if processes > 1 else [sys.executable]
        module, *rest = arguments
        return subprocess.Popen(
            [*command, "-m", f"invad_jax.{module}", *rest], cwd=self.folder, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, processes: int, *arguments: str, devices: int = 2, status: int = 0) -> str:
        """The same to its end; what it printed."""
        job = self.start(processes, *arguments, devices=devices)
        output, _ = job.communicate(timeout=900)
        assert job.returncode == status, f"status {job.returncode}\n{output}"
        return output

    def training(self, workdir: str, *assignments: str) -> list[str]:
        """Arguments of a tiny training."""
        return ["train", "--config", CONFIG, "--workdir", workdir, "--set", *TINY, *assignments]


def process_ids(job: subprocess.Popen[str]) -> list[int]:
    """The processes that the launcher started, in order."""
    found = subprocess.run(
        ["pgrep", "-P", str(job.pid), "-f", "--", "--distributed"],
        stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    return sorted(map(int, found.stdout.split()))


def newest_step(workdir: Path) -> int:
    """Of the checkpoints that are whole; -1 where there is none."""
    folder = workdir / "checkpoints"
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return max(steps, default=-1)


def wait_for_progress(job: subprocess.Popen[str], workdir: Path) -> None:
    """Returns when the job has written a further checkpoint, or ended."""
    begun = newest_step(workdir)
    while newest_step(workdir) <= begun and job.poll() is None:
        time.sleep(0.02)


def final_arrays(workdir: Path, step: int) -> list[object]:
    """The parameters of the last step, and their averages."""
    raw = ["inversion.use_ema=false", "scoring.prior=standard_normal"]
    models = [load(workdir), load(workdir, raw)]
    assert [model.step for model in models] == [step, step]
    return [jax.device_get(model.variables.denoiser) for model in models]
