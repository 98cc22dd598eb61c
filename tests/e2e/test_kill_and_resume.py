"""Killed anywhere and started again, a run ends with the parameters of the unbroken one."""

import random
import signal
import time

import jax
import numpy as np
import pytest

from invad_jax.inference.model import load
from tests.e2e.conftest import PROJECT, TINY

NUM_STEPS = 600
STEPS = (f"train.num_steps={NUM_STEPS}", "train.checkpoint_every=20", "train.log_every=10")


def final_arrays(workdir):
    """The parameters of the newest checkpoint, and their averages."""
    raw = ["inversion.use_ema=false", "scoring.prior=standard_normal"]
    models = [load(workdir), load(workdir, raw)]
    assert [model.step for model in models] == [NUM_STEPS, NUM_STEPS]
    return [jax.device_get(model.variables.denoiser) for model in models]


def arguments(commands, workdir):
    config = str(PROJECT / "configs" / "procedural.py")
    return ["train", "--config", config, "--workdir", workdir, "--set", *TINY, *STEPS]


def newest_step(workdir):
    folder = workdir / "checkpoints"
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return max(steps, default=-1)


def kill_after_progress(commands, workdir, number, delay):
    """Starts training, waits for a further checkpoint, then `delay`, then sends the signal."""
    process = commands.start(*arguments(commands, workdir.name))
    begun = newest_step(workdir)
    while newest_step(workdir) <= begun and process.poll() is None:
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(number)
    process.communicate(timeout=120)
    return process.returncode


@pytest.fixture(scope="module")
def unbroken(commands, trained):
    """The final parameters of the run that nothing disturbed."""
    commands.train(*STEPS, workdir="unbroken")
    return final_arrays(commands.folder / "unbroken")


def test_five_kills_change_nothing(commands, unbroken):
    rng, workdir, kills = random.Random(0), commands.folder / "killed", 0
    for _ in range(5):
        kills += kill_after_progress(commands, workdir, signal.SIGKILL, rng.uniform(0, 0.5)) == -9
    assert kills == 5
    assert newest_step(workdir) < NUM_STEPS
    commands.run(*arguments(commands, "killed"))
    jax.tree.map(np.testing.assert_array_equal, final_arrays(workdir), unbroken)


def test_sigterm_saves_and_leaves_with_status_0(commands, unbroken):
    workdir = commands.folder / "preempted"
    assert kill_after_progress(commands, workdir, signal.SIGTERM, 0.1) == 0
    assert 0 < newest_step(workdir) < NUM_STEPS
    commands.run(*arguments(commands, "preempted"))
    jax.tree.map(np.testing.assert_array_equal, final_arrays(workdir), unbroken)


def test_a_diverged_run_keeps_the_last_good_checkpoint(commands):
    done = commands.train(
        "train.learning_rate=1e30", "train.warmup_steps=6",
        "train.checkpoint_every=2", "train.grad_clip_norm=1e30", workdir="diverged", status=2,
    )  # fmt: skip
    assert "diverged" in done.stderr.strip().splitlines()[-1]
    assert newest_step(commands.folder / "diverged") >= 0


def test_a_workdir_of_another_config_is_refused(commands, trained):
    done = commands.train("train.seed=7", status=2)
    assert "train.seed is 7, was 0" in done.stderr


@pytest.mark.parametrize("damage", ["delete", "truncate", "flip"])
def test_the_latent_cache_is_never_trusted_when_damaged(commands, trained, damage):
    """Every shard is damaged; training on the same images makes them again, equal to the bit."""
    shards = sorted((commands.folder / "cache" / "latents").rglob("*.array_record"))
    good = {path: path.read_bytes() for path in shards}
    for path, content in good.items():
        if damage == "delete":
            path.unlink()
        elif damage == "truncate":
            path.write_bytes(content[:-100])
        else:
            middle = len(content) // 2  # among the latents, which fill all but the ends
            path.write_bytes(
                content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            )
    commands.train("train.num_steps=1", workdir=f"cache_{damage}")
    made_again = [path for path in shards if path.is_file() and path.read_bytes() == good[path]]
    assert len(made_again) >= 2  # what was trained on, and what was held out
