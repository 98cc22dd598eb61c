"""What the loop of a training does around its steps."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
