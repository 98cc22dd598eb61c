"""Eight CPU devices as two slices of four, and a training that one of the slices is taken from."""

import shutil

import jax
import numpy as np
import pytest

import invad_jax.inference.load  # noqa: F401  # whose mesh for scoring is not replaced
from invad_jax.runtime import sharding
from tests.commands import TINY_MLP, final_arrays, newest_step, training

NUM_STEPS, KEPT = 12, 6
MAKE_MESH = sharding.make_mesh


@pytest.fixture
def train(commands, monkeypatch):
    """`train` on so many slices; returns its log and the mesh."""
    monkeypatch.setattr(sharding, "_slice_of", lambda device: device.id // 4)

    def run(workdir, slices):
        mesh = []

        def make_mesh(cfg, devices=None):
            if devices is None:  # else for one of the slices
                mesh.append(MAKE_MESH(cfg, jax.devices()[: 4 * slices]))
                return mesh[-1]
            return MAKE_MESH(cfg, devices)

        every = f"train.checkpoint_every={KEPT}"
        options = (f"train.num_steps={NUM_STEPS}", every, "mesh.fsdp=-1")
        with monkeypatch.context() as patch:
            patch.setattr("invad_jax.runtime.sharding.make_mesh", make_mesh)
            done = commands.here(*training(workdir, *options, tiny=TINY_MLP))
        return done.stderr, dict(mesh[0].shape)

    return run


def test_a_training_on_two_slices_goes_on_on_one(commands, train):
    _, two = train("on_two_slices", 2)
    half = commands.folder / "on_one_of_them"
    shutil.copytree(commands.folder / "on_two_slices", half)
    shutil.rmtree(half / "checkpoints" / str(NUM_STEPS))
    assert newest_step(half) == KEPT
    log, one = train("on_one_of_them", 1)
    assert (two, one) == (
        {"data": 2, "fsdp": 4, "tensor": 1},
        {"data": 1, "fsdp": 4, "tensor": 1},
    )
    assert f"resumed at step {KEPT}" in log
    unbroken, resumed = (
        final_arrays(commands.folder / workdir, NUM_STEPS)
        for workdir in ("on_two_slices", "on_one_of_them")
    )
    # Sums over four devices round otherwise than over eight; the tolerance, and why it would show
    # other batches, is that of `multiprocess/test_processes.py`.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), resumed, unbroken)
