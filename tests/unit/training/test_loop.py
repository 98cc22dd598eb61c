"""What the loop of a training does around its steps."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import Config, MeshConfig, TrainConfig
from invad_jax.data.dataset import Sample, fingerprint
from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.runtime.sharding import make_mesh
from invad_jax.runtime.workdir import Workdir
from invad_jax.training import loop


def test_a_checkpoint_may_start_copies_that_the_loop_forbids():
    """Orbax's count as implicit wherever a device's memory is not the host's."""
    saved = []

    def save(step, *_):
        saved.append((step, jax.jit(jnp.sum)(np.ones(3))))  # its argument is copied implicitly

    arrays = SimpleNamespace(step=jnp.int32(7), model=dict, optimizer=dict)
    with jax.transfer_guard("disallow"):
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            save(0)
        loop._save(
            SimpleNamespace(save=save), SimpleNamespace(), arrays, None,
            iterator=None, meta={}, draw=None, held_out=None,
        )  # fmt: skip
    assert saved == [(7, 3)]


class Stop:
    def at(self, step):
        return False


class Writer:
    def write(self, step, scalars):
        pass

    def close(self):
        pass


def test_a_step_may_copy_implicitly_while_it_is_compiled_and_never_again():
    """What it closes over is read then: on a device whose memory is not the host's, implicitly."""
    calls = []

    def step_fn(state, batch):
        calls.append(jax.jit(jnp.sum)(np.ones(3)))  # its argument is copied implicitly
        return state, {"loss": jnp.float32(1)}

    cfg = dataclasses.replace(TrainConfig(), num_steps=2, batch_size=1)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    batches = itertools.repeat({"x": np.zeros((1, 2), np.float32)})
    state = SimpleNamespace(step=jnp.int32(0))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        loop.run(state, step_fn, batches, mesh, cfg, lambda *_: None, Writer(), Stop())
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("changed", "said"), [("", ""), ("encoder", "another encoder"), ("dataset", "another dataset")]
)
def test_a_start_that_cannot_go_on_is_refused_before_it_writes(tmp_path, changed, said):
    (tmp_path / "0.png").write_bytes(b"0")
    fit = [Sample(str(tmp_path / "0.png"), "nut", "good", 0)]
    made_of = {"dataset": fingerprint(fit), "encoder": "one"} | (
        {changed: "other"} if changed else {}
    )
    workdir = Workdir(tmp_path / "run")
    loop.check_unchanged(workdir, Config(), fit, "two")  # nothing is there
    files.write_json(workdir.checkpoints / "5" / "meta" / "metadata", made_of)
    if said:
        with pytest.raises(UserError, match=f"its checkpoint was made with {said}"):
            loop.check_unchanged(workdir, Config(), fit, "one")
    else:
        loop.check_unchanged(workdir, Config(), fit, "one")
        loop.check_unchanged(workdir, Config(), fit)  # a network that is not known yet
