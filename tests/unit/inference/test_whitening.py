"""Each training image leaves itself out of what it is whitened by."""

import numpy as np
import pytest

from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.errors import UserError
from invad_jax.inference.whitening import Learner
from invad_jax.runtime.sharding import make_mesh
from invad_jax.training.denoiser import latent_stats


def test_images_in_another_order_are_refused():
    """As after a category was renamed: each would leave another one out, and meet itself."""
    latents = np.random.default_rng(0).standard_normal((12, 4, 5, 3)).astype(np.float32)
    config = override(Config(), ["train.latent_stats=whiten", "diffusion.prediction=v"])
    learner = Learner(config, latent_stats(latents, "channel"), make_mesh(config.mesh))
    fitted, rest = learner.fit(latents, ["nut"] * 12)
    np.testing.assert_array_equal(learner.rest(fitted, latents), rest)
    # An accelerator's products, of 8 bits: the same images.
    learner.rest(
        fitted, latents * (1 + np.random.default_rng(1).uniform(-1, 1, latents.shape) / 256)
    )
    with pytest.raises(UserError, match="come in another order"):
        learner.rest(fitted, latents[::-1])


def test_images_that_are_all_alike_have_no_order():
    one = np.random.default_rng(0).standard_normal((1, 4, 5, 3)).astype(np.float32)
    latents = one + 1e-4 * np.random.default_rng(1).standard_normal((6, 4, 5, 3)).astype(np.float32)
    config = override(Config(), ["train.latent_stats=whiten", "diffusion.prediction=v"])
    learner = Learner(config, latent_stats(latents, "channel"), make_mesh(config.mesh))
    for alike in (latents, np.repeat(one, 6, axis=0)):
        fitted, _ = learner.fit(alike, ["nut"] * 6)
        learner.rest(fitted, alike[::-1])
