"""Commands in tests: processes as a user starts them, or in this one."""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import jax

from invad_jax.inference.predictor import load
from invad_jax.io.paths import is_remote
from invad_jax.runtime import cli as command_line
from invad_jax.runtime.log import log

PROJECT = Path(__file__).resolve().parents[1]
LAUNCHER = str(PROJECT / "launch" / "cpu_processes.sh")
CONFIG = str(PROJECT / "configs" / "procedural.py")
TINY_DIT = (
    "data.image_size=64", "encoder.stages=0,2", "encoder.pool=2",
    "denoiser.width=16", "denoiser.depth=1", "denoiser.num_heads=2",
    "train.batch_size=8", "train.num_steps=12", "train.warmup_steps=2",
    "train.checkpoint_every=4", "eval.batch_size=8",
)  # fmt: skip
TINY_MLP = (
    "data.image_size=32", "encoder.stages=0", "encoder.pool=4", "denoiser.name=mlp",
    "denoiser.width=64", "denoiser.depth=1", "train.batch_size=8", "train.warmup_steps=2",
    "eval.batch_size=8",
)  # fmt: skip
WHITE = (
    "train.latent_stats=whiten",
    "diffusion.prediction=v",
    "scoring.prior=standard_normal",
)
"""Coordinates where normal latents are N(0, I), as in our own configs."""
RAW = ("scoring.prior=standard_normal", "inversion.use_ema=false")
"""What needs nothing of a workdir but its parameters."""


def training(workdir: str | Path, *assignments: str, tiny: tuple[str, ...] = TINY_DIT) -> list[str]:
    """The `train` command of a tiny network on the procedural set."""
    return ["train", "--config", CONFIG, "--workdir", str(workdir), "--set", *tiny, *assignments]


class Commands:
    """Starts commands in one folder; they share its cache of samples and latents."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {
            **os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(PROJECT),
            "JAX_PLATFORMS": "cpu", "INVAD_CACHE": str(folder / "cache"),
            "JAX_COMPILATION_CACHE_DIR": os.environ.get(
                "JAX_COMPILATION_CACHE_DIR", str(folder / "compiled")
            ),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }  # fmt: skip

    def start(
        self, main: str, *arguments: str, processes: int = 1, devices: int = 0, limit: str = "",
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:  # fmt: skip
        """`python -m invad_jax.<main> <arguments>`.

        Args:
          main: the command.
          arguments: its own.
          processes: of the job; several are started by the launcher, which joins their output.
          devices: of all processes together; one each if 0.
          limit: Python that the process runs before it becomes the command.
          environment: what is different in it.
        """
        command = [LAUNCHER, str(processes)] if processes > 1 else [sys.executable]
        if limit:
            become = "; import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
            command += ["-c", limit + become]
        count = {"JAX_NUM_CPU_DEVICES": str(max(devices // processes, 1))}
        return subprocess.Popen(
            [*command, "-m", f"invad_jax.{main}", *arguments], cwd=self.folder,
            env=self.environment | count | (environment or {}),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(
        self, *arguments: str, status: int = 0, **circumstances
    ) -> subprocess.CompletedProcess[str]:
        """The same to its end, which has to be this status."""
        process = self.start(*arguments, **circumstances)
        out, err = process.communicate(timeout=900)
        assert process.returncode == status, f"status {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, status, out, err)

    def train(
        self, *assignments: str, workdir: str | Path = "run", **circumstances
    ) -> subprocess.CompletedProcess[str]:
        """`train` in small, to its end."""
        return self.run(*training(workdir, *assignments), **circumstances)

    def here(self, main: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """A command in this process and on its devices, without the seconds of a start."""
        out, err = io.StringIO(), io.StringIO()
        cli = importlib.import_module(f"invad_jax.{main}").cli
        with (
            contextlib.chdir(self.folder), contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err), mock.patch.dict(os.environ, self.environment),
            mock.patch.multiple(log, handlers=[], propagate=False, level=log.level),
        ):  # fmt: skip
            code = cli(list(arguments))
        assert code == status, f"status {code}\n{out.getvalue()}\n{err.getvalue()}"
        return subprocess.CompletedProcess([main, *arguments], code, out.getvalue(), err.getvalue())

    def drawn_test_images(self) -> list[Path]:
        """Of the procedural set, once a command has drawn it."""
        return sorted((self.folder / "cache" / "samples").glob("procedural-*/*/test/*/*.png"))

    def refused(self, *arguments: str) -> str:
        """The one line in which a command says what is wrong."""
        done = self.here(*arguments, status=2)
        *rest, last = done.stderr.splitlines()
        assert last.startswith("error: ")
        assert not any("Traceback" in line or line.startswith("error: ") for line in rest)
        return last


def parsed(verb: str, arguments: list[str]) -> argparse.Namespace:
    """What the parser of a command makes of its arguments, without the command.

    Raises:
      UserError: it refuses them.
    """
    read: list[argparse.Namespace] = []

    def parse(main: object, parser: command_line.Parser, argv: list[str], **_: object) -> int:
        read.append(parser.parse_args(argv))
        return 0

    with mock.patch.object(command_line, "run", parse):
        importlib.import_module(f"invad_jax.{verb.replace('-', '_')}").cli(arguments)
    return read[0]


def newest_step(workdir: Path) -> int:
    """Of the checkpoints that are whole; -1 where there is none."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    steps = sorted((int(name) for name in names if name.isdigit()), reverse=True)
    if is_remote(workdir):
        steps = [n for n in steps if (folder / str(n) / "commit_success.txt").is_file()]
    return steps[0] if steps else -1


def wait_for_progress(job: subprocess.Popen[str], workdir: Path) -> None:
    """Returns when the job has written a further checkpoint, or ended."""
    begun = newest_step(workdir)
    while newest_step(workdir) <= begun and job.poll() is None:
        time.sleep(0.02)


def process_ids(job: subprocess.Popen[str]) -> list[int]:
    """The processes that the launcher started, in order."""
    found = []
    with contextlib.suppress(OSError):  # one that has ended meanwhile
        for child in map(int, Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()):
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            found += [child] if b"--distributed" in words else []
    return sorted(found)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table by its header."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def unfinished_copy(workdir: Path, to: Path) -> Path:
    """A finished workdir as it was at the checkpoint before the last."""
    shutil.copytree(workdir, to)
    shutil.rmtree(to / "checkpoints" / str(newest_step(to)))
    shutil.rmtree(to / "normals")
    return to


def final_arrays(workdir: Path, step: int, options: tuple[str, ...] = RAW) -> list[object]:
    """The parameters of the newest sound checkpoint, which has to be this, and their averages.

    `options` need nothing of a workdir but its parameters.
    """
    models = [load(workdir, [*options, f"inversion.use_ema={ema}"]) for ema in ("false", "true")]
    assert [model.step for model in models] == [step, step]
    return [jax.device_get(model.network) for model in models]
