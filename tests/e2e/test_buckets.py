"""From training to predictions without a disk but for the images: the same files as on one."""

import json
import re

import pytest

from invad_jax.io import files
from invad_jax.io.paths import to_path
from tests import emulators
from tests.commands import TINY_MLP, final_arrays, training
from tests.emulators import BUCKET

STEPS = "train.num_steps=8"
EVERY = "train.checkpoint_every=4"


@pytest.fixture(scope="module")
def gs():
    """The environment of a Cloud Storage, for this process and those that it starts."""
    with (
        emulators.cloud_storage() as url,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in emulators.environment_of_gs(url).items():
            patch.setenv(name, value)
        yield url


def whole_way(commands, root, images):
    """Trains, evaluates and predicts, all below `root`."""
    commands.here(*training(f"{root}/run", STEPS, EVERY, tiny=TINY_MLP))
    commands.here("eval", "--workdir", f"{root}/run", "--no-speed", "--save-maps")
    commands.here(
        "predict", "--workdir", f"{root}/run", "--input", str(images), "--out", f"{root}/predicted"
    )


@pytest.fixture(scope="module")
def both(commands, gs):
    """The roots of the same on this machine and in a bucket."""
    environment = commands.environment
    commands.environment = environment | emulators.environment_of_gs(gs)
    here, there = commands.folder / "on_a_disk", to_path(f"gs://{BUCKET}/e2e")
    whole_way(commands, here, commands.folder / "cache/samples/procedural-1/disc/test")
    whole_way(commands, there, commands.folder / "cache/samples/procedural-1/disc/test")
    yield here, there
    commands.environment = environment


def test_a_training_in_a_bucket_is_the_one_on_a_disk(both):
    import jax
    import numpy as np

    here, there = (final_arrays(root / "run", 8) for root in both)
    jax.tree.map(np.testing.assert_array_equal, here, there)


@pytest.mark.parametrize("folder", ["run/eval", "predicted"])
def test_eval_and_predict_write_the_same_bytes(both, folder):
    here, there = both
    found, expected = files.digests(there / folder), files.digests(here / folder)
    assert found.keys() == expected.keys() != set()
    differ = {name for name in expected if found[name] != expected[name]}
    assert differ <= {"report.html"}  # in which the command stands
    for name in differ:
        pages = [files.read_bytes(root / folder / name).decode() for root in both]
        assert pages[0].replace(str(here), "") == pages[1].replace(str(there), "")


def test_the_curve_is_there(both):
    (events,) = (both[1] / "run" / "logs").iterdir()
    assert b"loss" in files.read_bytes(events)


def test_a_config_is_kept_without_traces(both):
    one, other = (json.loads(files.read_bytes(root / "run/config.json")) for root in both)
    assert one == other


def test_nothing_half_written_lies_about(both):
    names = [str(path).removeprefix(str(both[1])) for path in both[1].rglob("*")]
    assert not [name for name in names if re.search(r"tmp|partial|/\.", name)]
