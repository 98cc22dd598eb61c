"""What decides whether a network is kept."""

import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import MeshConfig
from invad_jax.runtime.sharding import make_mesh
from invad_jax.training.held_out import MOST_IMAGES, HeldOut
from invad_jax.training.step import LossFn


@pytest.mark.parametrize("count", [3, MOST_IMAGES, 4 * MOST_IMAGES + 1])
def test_images_of_all_categories_decide(count):
    """They come in the order of their categories."""
    seen = []

    def draw(batch, rng):
        seen.extend(np.asarray(batch["latent"])[:, 0, 0, 0].tolist())
        return batch

    loss = LossFn(draw=draw, given=lambda params, frozen, batch: (jnp.float32(0), {}))
    rows = np.arange(count, dtype=np.float32)[:, None, None, None]
    HeldOut(loss, (), rows, 8, make_mesh(MeshConfig()))
    few = min(count, MOST_IMAGES)
    assert sorted(set(seen)) == [i * count // few for i in range(few)]
