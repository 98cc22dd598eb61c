"""Each training image leaves itself out of what it is whitened by."""

import numpy as np
import pytest

from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.errors import UserError
from invad_jax.inference.whitening import Learner
from invad_jax.runtime.sharding import make_mesh
from invad_jax.training.denoiser import latent_stats


@pytest.mark.parametrize("order", ["within their kinds", "of two images", "of kinds"])
def test_images_in_another_order_are_refused(order):
    """As after files were renamed: each would leave another one out, and meet itself. Kinds are far
    apart, which does not hide it."""
    kind = np.repeat(["bolt", "nut"], 6)
    latents = np.random.default_rng(0).standard_normal((12, 4, 5, 3)).astype(np.float32)
    latents[6:] += 10
    other = {
        "within their kinds": np.r_[5, 0:5, 11, 6:11], "of two images": np.r_[1, 0, 2:12],
        "of kinds": np.r_[6:12, 0:6],
    }[order]  # fmt: skip
    config = override(Config(), ["train.latent_stats=whiten", "diffusion.prediction=v"])
    learner = Learner(config, latent_stats(latents, "channel"), make_mesh(config.mesh))
    fitted, rest = learner.fit(latents, kind.tolist())
    np.testing.assert_array_equal(learner.rest(fitted, latents), rest)
    # An accelerator's products, of 8 bits: the same images.
    learner.rest(
        fitted, latents * (1 + np.random.default_rng(1).uniform(-1, 1, latents.shape) / 256)
    )
    with pytest.raises(UserError, match="come in another order"):
        learner.rest(fitted, latents[other])


def test_images_that_are_all_alike_have_no_order():
    one = np.random.default_rng(0).standard_normal((1, 4, 5, 3)).astype(np.float32)
    latents = one + 1e-4 * np.random.default_rng(1).standard_normal((6, 4, 5, 3)).astype(np.float32)
    config = override(Config(), ["train.latent_stats=whiten", "diffusion.prediction=v"])
    learner = Learner(config, latent_stats(latents, "channel"), make_mesh(config.mesh))
    for alike in (latents, np.repeat(one, 6, axis=0)):
        fitted, _ = learner.fit(alike, ["nut"] * 6)
        learner.rest(fitted, alike[::-1])
