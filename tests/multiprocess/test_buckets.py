"""Two processes and one bucket, killed."""

import jax
import numpy as np
import pytest

from invad_jax.io.paths import to_path
from tests import emulators
from tests.commands import final_arrays
from tests.emulators import BUCKET
from tests.multiprocess.kills import arguments, killed_run

NUM_STEPS = 60


@pytest.fixture(scope="module")
def unbroken(commands):
    """The parameters of two processes that wrote to a disk and that nothing disturbed."""
    commands.run(*arguments("unbroken_on_a_disk", NUM_STEPS), processes=2)
    return final_arrays(commands.folder / "unbroken_on_a_disk", NUM_STEPS)


def test_kills_change_nothing(commands, unbroken, monkeypatch):
    """`make test-kills` does it ten times."""
    with emulators.used("gs") as environment:
        monkeypatch.setattr(commands, "environment", commands.environment | environment)
        workdir = to_path(f"gs://{BUCKET}/killed")
        kills = killed_run(commands, workdir, 2, NUM_STEPS, seed=1)
        assert all(kill.status for kill in kills)
        killed = final_arrays(workdir, NUM_STEPS)
    jax.tree.map(np.testing.assert_array_equal, killed, unbroken)
