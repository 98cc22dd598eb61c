"""The memory of a training step, from shapes: counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from invad_jax import train, train_vae
from invad_jax.config import MeshConfig, TrainConfig
from invad_jax.errors import UserError
from invad_jax.runtime import memory as device_memory
from invad_jax.runtime.sharding import make_mesh, replicated
from invad_jax.training import loop, memory
from invad_jax.training.step import LossFn

ROWS, INPUTS, OUTPUTS = 5, 300, 70
LOSS = LossFn(
    draw=lambda batch, rng: batch,
    given=lambda params, frozen, batch: (jnp.sum(jnp.sin(batch["x"] @ params["w"])), {}),
)
TRAINED = loop.Trained(TrainConfig(), lambda rng: {"w": jnp.zeros((INPUTS, OUTPUTS))}, {}, LOSS)
BATCH = {"x": jax.ShapeDtypeStruct((ROWS, INPUTS), np.float32)}


def test_activations_by_hand():
    """The gradient of sin(x w) needs x and cos(x w)."""
    params = jax.eval_shape(TRAINED.init_params, jax.random.key(0))
    kept = memory._bytes(memory.residuals(TRAINED, params, BATCH))
    assert kept == 4 * ROWS * (INPUTS + OUTPUTS)


@pytest.mark.parametrize("ways", [1, 2])
def test_a_step_by_hand(ways, monkeypatch):
    """Parameters, their average, two moments, a gradient; fsdp splits them, not the batch's."""
    mesh = make_mesh(MeshConfig(fsdp=ways), jax.devices()[:ways])
    counts = 12  # of the step, of Adam and of its learning rate, int32
    need = 4 * INPUTS * OUTPUTS * 5 // ways + counts + 4 * ROWS * (INPUTS + OUTPUTS)
    monkeypatch.setattr(device_memory, "free_bytes", lambda: need)
    memory.check_step("x", TRAINED, BATCH, mesh, small=False)
    monkeypatch.setattr(device_memory, "free_bytes", lambda: need - 1)
    with pytest.raises(UserError, match=r"x needs about .*optimiser.*gradients.*activations"):
        memory.check_step("x", TRAINED, BATCH, mesh, small=False)


@pytest.mark.parametrize(
    ("main", "options", "message"),
    [
        (train, ["denoiser.width=65536"], "optimiser"),
        (train, ["train.batch_size=1048576"], "a batch"),
        (train, ["data.image_size=16384"], "images"),
        (train, ["data.image_size=16384", "eval.batch_size=1"], "images|a batch"),
        (train, ["eval.batch_size=65536"], "images"),
        (train_vae, ["vae.width=32768"], "optimiser"),
        (train_vae, ["train.batch_size=1048576"], "a batch"),
    ],
)  # fmt: skip
def test_what_no_machine_holds_is_refused_before_it_is_taken(
    main, options, message, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(device_memory, "free_bytes", lambda: 2e9)  # of each of 8 devices
    workdir = tmp_path / "run"
    argv = ["--config", "configs/procedural.py", "--workdir", str(workdir), "--set", *options]
    assert main.cli(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "GB on each device" in line
    assert any(part in line for part in message.split("|"))
    assert not workdir.exists()


def test_parameters_that_a_gradient_keeps_are_kept_in_parts():
    mesh = make_mesh(MeshConfig(fsdp=4), jax.devices()[:4])
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    params = {
        "w": jax.ShapeDtypeStruct((8, 6), np.float32, sharding=split),
        "b": jax.ShapeDtypeStruct((6,), np.float32, sharding=replicated(mesh)),
    }
    kept = [params["w"], jax.ShapeDtypeStruct((16, 8), np.float32)]  # and an activation
    assert memory._elsewhere(kept, params) == 4 * (8 * 6) * 3 // 4
    assert memory._elsewhere(kept[1:], params) == 0
