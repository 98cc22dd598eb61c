"""From training to predictions without a disk but for the images: the same files as on one."""

import os
import re
import shutil
from unittest import mock

import pytest

from invad_jax.data.samples import procedural_root
from invad_jax.io import files
from invad_jax.io.paths import to_path
from tests import emulators
from tests.commands import TINY_MLP, final_arrays, training
from tests.emulators import BUCKET

STEPS = "train.num_steps=8"
EVERY = "train.checkpoint_every=4"


def whole_way(commands, root):
    """Trains, evaluates and predicts, all below `root`."""
    options = ("data.name=mvtec", f"data.root={root}/data", STEPS, EVERY)
    commands.here(*training(f"{root}/run", *options, tiny=TINY_MLP))
    commands.here("eval", "--workdir", f"{root}/run", "--no-speed", "--save-maps")
    commands.here(
        *("predict", "--workdir", f"{root}/run", "--input", f"{root}/data/disc/test"),
        *("--out", f"{root}/predicted"),
    )


@pytest.fixture(scope="module")
def here(commands):
    """The root of all that is on this machine."""
    root = commands.folder / "on_a_disk"
    with mock.patch.dict(os.environ, commands.environment):
        shutil.copytree(procedural_root(), root / "data")
    whole_way(commands, root)
    return root


@pytest.fixture(scope="module", params=["gs", "s3"])
def both(commands, here, request, tmp_path_factory):
    """The roots of the same on this machine and in a bucket, the cache of latents included."""
    there = to_path(f"{request.param}://{BUCKET}/e2e")
    changed = {
        "INVAD_CACHE": f"{there}/cache",
        "HOME": str(tmp_path_factory.mktemp("home")),
    }
    with emulators.used(request.param) as environment, pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "environment", commands.environment | environment | changed)
        files.upload_folder(here / "data", there / "data")
        whole_way(commands, there)
        yield here, there


def test_a_training_in_a_bucket_is_the_one_on_a_disk(both):
    import jax
    import numpy as np

    here, there = (final_arrays(root / "run", 8) for root in both)
    jax.tree.map(np.testing.assert_array_equal, here, there)


@pytest.mark.parametrize("folder", ["run/eval", "predicted"])
def test_eval_and_predict_write_the_same_bytes(both, folder):
    expected, found = (contents(root, folder) for root in both)
    assert found.keys() == expected.keys() != set()
    assert [name for name in expected if found[name] != expected[name]] == []


def contents(root, folder):
    """The files by their names; in text, paths without the root, and not the hash of a config."""
    of_config = files.read_json(root / "run" / "eval" / "metrics.json")["config_hash"]
    found = {}
    for path in (root / folder).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix in (".html", ".json", ".csv"):
                content = content.replace(str(root).encode(), b"").replace(of_config.encode(), b"")
            found[str(path).removeprefix(str(root))] = content
    return found


def test_latents_are_kept_in_the_bucket(both):
    shards = list((both[1] / "cache" / "latents").rglob("*.array_record"))
    assert len(shards) == 3  # of 72 images to fit on and 8 held out


def test_the_curve_is_there(both):
    (events,) = (both[1] / "run" / "logs").iterdir()
    assert b"loss" in files.read_bytes(events)


def test_nothing_half_written_lies_about(both):
    names = [str(path).removeprefix(str(both[1])) for path in both[1].rglob("*")]
    assert not [name for name in names if re.search(r"tmp|partial|/\.", name)]


def test_a_damaged_checkpoint_is_left_out(commands, both):
    there = both[1] / "run" / "checkpoints"
    damaged = next(path for path in (there / "8" / "model" / "d").iterdir())
    files.write_text(damaged, "other content")
    done = commands.here("eval", "--workdir", str(both[1] / "run"), "--no-speed")
    assert f"{there}/8: damaged (model/d/{damaged.name}: other content); left out" in done.stderr
    assert files.read_json(both[1] / "run" / "eval" / "metrics.json")["step"] == 4
