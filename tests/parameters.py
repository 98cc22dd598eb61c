"""Parameters of networks without a program for each of their sizes."""

import jax
import numpy as np


def random_like(shapes, scale=1.0, seed=0):
    """As a training leaves them, none zero: normal numbers in float32 for a tree of shapes, as
    `abstract_params` gives it."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: scale * rng.standard_normal(leaf.shape, np.float32), shapes)


def norm(tree):
    """Of all numbers of a tree."""
    return np.linalg.norm([np.linalg.norm(leaf) for leaf in jax.tree.leaves(tree)])
