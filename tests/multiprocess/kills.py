"""Kills a training of two processes at random moments, and compares its end with an unbroken one.

    python -m tests.multiprocess.kills --kills 25
    python -m tests.multiprocess.kills --kills 10 --bucket gs
    python -m tests.multiprocess.kills --kills 0 --bucket gs --faults 20

`docs/kills.md` has the results.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from invad_jax.io.paths import to_path
from tests import emulators
from tests.commands import (
    TINY_MLP,
    Commands,
    final_arrays,
    newest_step,
    process_ids,
    training,
    wait_for_progress,
)
from tests.emulators import Faults

CHECKPOINT_EVERY = 10


class Kill(NamedTuple):
    """What one kill did."""

    target: str
    """`process 0`, `process 1` or `all`."""
    newest_step: int
    """Of the checkpoints, right after."""
    status: int
    """Of the launcher."""
    seconds: float
    """From the signal to the end of the whole job."""


def arguments(workdir: str | Path, num_steps: int) -> list[str]:
    """The training that both runs share."""
    every = f"train.checkpoint_every={CHECKPOINT_EVERY}"
    return training(workdir, f"train.num_steps={num_steps}", every, tiny=TINY_MLP)


def kill_one_job(
    commands: Commands, workdir: Path, num_steps: int, rng: random.Random, at_start: bool
) -> Kill:
    """Starts or resumes the training and sends SIGKILL to one process or to both.

    Args:
      commands: start it.
      workdir: of the training.
      num_steps: of the whole of it.
      rng: draws target and moment.
      at_start: some time in the first seconds, while it joins, restores and compiles; else some
        time after it has written a further checkpoint.
    """
    job = commands.start(*arguments(workdir, num_steps), processes=2)
    if at_start:
        time.sleep(rng.uniform(1, 8))
        processes = process_ids(job)
    else:
        processes: list[int] = []  # which takes a moment: before there is progress
        while len(processes) < 2 and job.poll() is None:
            time.sleep(0.02)
            processes = process_ids(job)
        wait_for_progress(job, workdir)
        time.sleep(rng.uniform(0, 0.15))
    target = rng.choice(["process 0", "process 1", "all"])
    for process in processes if target == "all" else [processes[int(target[-1])]]:
        os.kill(process, signal.SIGKILL)
    begun = time.monotonic()
    job.communicate(timeout=120)
    seconds = time.monotonic() - begun
    return Kill(target, newest_step(workdir), job.returncode, seconds)


def killed_run(
    commands: Commands, workdir: Path, kills: int, num_steps: int, seed: int
) -> list[Kill]:
    """Trains to the end in spite of `kills` kills; every fifth, beginning with the third, early."""
    rng, done = random.Random(seed), []
    for number in range(kills):
        done.append(kill_one_job(commands, workdir, num_steps, rng, number % 5 == 2))
        print(f"kill {number + 1}: {done[-1]}", file=sys.stderr, flush=True)
    commands.run(*arguments(workdir, num_steps), processes=2)
    return done


def main() -> None:
    """Both runs and their comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bucket", choices=("gs", "s3"), help="the killed run is in one")
    parser.add_argument("--faults", type=int, default=0, help="one request of so many goes wrong")
    args = parser.parse_args()
    num_steps, faults = 30 * max(args.kills, 1), Faults(args.faults, args.seed)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        commands, killed = Commands(Path(folder)), Path(folder, "killed")
        if args.bucket:
            commands.environment |= stack.enter_context(
                emulators.used(args.bucket, faults if args.faults else None)
            )
            killed = to_path(f"{args.bucket}://{emulators.BUCKET}/killed")
        kills = killed_run(commands, killed, args.kills, num_steps, args.seed)
        commands.run(*arguments("unbroken", num_steps), processes=2)
        one, other = (final_arrays(w, num_steps) for w in (killed, Path(folder, "unbroken")))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert all(kill.status != 0 for kill in kills), "a kill came too late: the run was over"
    print(f"{len(kills)} kills in {num_steps} steps, nothing lost: parameters equal to the bit")
    if kills:
        slowest = max(kill.seconds for kill in kills)
        print(f"after a kill the job ended within {slowest:.1f} s")
    if args.faults:
        wrong = ", ".join(f"{faults.count[kind]} {kind}" for kind in faults.kinds)
        print(f"of {faults.count['requests']} requests went wrong: {wrong}")


if __name__ == "__main__":
    main()
