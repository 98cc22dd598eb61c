"""Killed anywhere and started again, a run ends with the parameters of the unbroken one."""

import random
import signal
import time

import jax
import numpy as np
import pytest

from tests.commands import final_arrays, newest_step, training, wait_for_progress

NUM_STEPS = 200
STEPS = (f"train.num_steps={NUM_STEPS}", "train.checkpoint_every=20")


def kill_after_progress(commands, workdir, number, delay):
    """Starts training, waits for a further checkpoint, then `delay`, then sends the signal."""
    process = commands.start(*training(workdir, *STEPS))
    wait_for_progress(process, workdir)
    time.sleep(delay)
    process.send_signal(number)
    process.communicate(timeout=120)
    return process.returncode


@pytest.fixture(scope="module")
def unbroken(commands, trained):
    """The final parameters of the run that nothing disturbed."""
    commands.train(*STEPS, workdir="unbroken")
    return final_arrays(commands.folder / "unbroken", NUM_STEPS)


def test_two_kills_change_nothing(commands, unbroken):
    """`make test-kills` does it 25 times, to two processes."""
    rng, workdir = random.Random(0), commands.folder / "killed"
    for _ in range(2):
        status = kill_after_progress(commands, workdir, signal.SIGKILL, rng.uniform(0, 0.2))
        assert status == -signal.SIGKILL
    assert newest_step(workdir) < NUM_STEPS
    commands.train(*STEPS, workdir=workdir)
    jax.tree.map(np.testing.assert_array_equal, final_arrays(workdir, NUM_STEPS), unbroken)


def test_sigterm_saves_and_leaves_with_status_0(commands, unbroken):
    workdir = commands.folder / "preempted"
    assert kill_after_progress(commands, workdir, signal.SIGTERM, 0.1) == 0
    assert 0 < newest_step(workdir) < NUM_STEPS
    commands.train(*STEPS, workdir=workdir)
    jax.tree.map(np.testing.assert_array_equal, final_arrays(workdir, NUM_STEPS), unbroken)


def test_a_diverged_run_keeps_the_last_good_checkpoint(commands):
    options = ("train.learning_rate=1e30", "train.warmup_steps=6", "train.checkpoint_every=2")
    done = commands.here(*training("diverged", *options), status=2)
    assert "diverged" in done.stderr.strip().splitlines()[-1]
    assert newest_step(commands.folder / "diverged") >= 0


def test_a_workdir_of_another_config_is_refused(commands, trained):
    assert "train.seed is 7, was 0" in commands.refused(*training("run", "train.seed=7"))


def test_the_latent_cache_is_never_trusted_when_damaged(commands, trained):
    """Every shard has a flipped bit; training on the same images makes them again, equal to the
    bit. Other damage: `unit/inference/test_latent_cache.py`."""
    shards = sorted((commands.folder / "cache" / "latents").rglob("*.array_record"))
    good = {path: path.read_bytes() for path in shards}
    for path, content in good.items():
        flipped = bytearray(content)
        flipped[10_000] ^= 1  # among the latents of the smallest shard, 8 of 2,560 bytes
        path.write_bytes(flipped)
    commands.here(*training("cache_flip", "train.num_steps=1"))
    made_again = [path for path in shards if path.is_file() and path.read_bytes() == good[path]]
    assert len(made_again) >= 2  # what was trained on, and what was held out
