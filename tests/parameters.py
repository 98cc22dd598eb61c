"""Parameters of networks as a training leaves them, none zero, and no program draws them."""

import jax
import numpy as np


def random_like(shapes, scale=1.0, seed=0):
    """Normal numbers in float32 for a tree of shapes, as `abstract_params` gives it."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: scale * rng.standard_normal(leaf.shape, np.float32), shapes)
