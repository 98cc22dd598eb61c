"""PaDiM against SciPy, the nearest neighbour against scikit-learn, as `inversion.paradigm`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.neighbors import NearestNeighbors

from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.inference.arrays import reference_to_device
from invad_jax.normality import reference
from invad_jax.normality.mixture import Component
from invad_jax.paradigms import paradigm_of


def images(count, seed, shift=0.0):
    """(N, h, w, C) float32 of a 2 x 3 grid."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(4) + 0.3 * np.random.default_rng(9).standard_normal((4, 4))
    return (rng.standard_normal((count, 2, 3, 4)) @ mixing + shift).astype(np.float32)


def component(name, x):
    return Component(name, np.array_split(x[:, None], 3))


def found(name):
    return paradigm_of(override(Config(), [f"inversion.paradigm={name}"]))


def scores_of(name, learnt, test):
    compare = jax.jit(found(name).compare, static_argnums=2)
    return compare(reference_to_device(learnt), jnp.asarray(test[:, None]), 6)


def test_padim_is_scipys_mahalanobis_distance():
    normal, test = images(25, 0), images(3, 1, shift=0.5)
    learnt = reference.learn(found("padim").lessons, [component("nut", normal)])
    norm = scores_of("padim", learnt, test).latent_norm
    for i, j in np.ndindex(2, 3):
        x = normal[:, i, j].astype(np.float64)
        inverse = np.linalg.inv(np.cov(x, rowvar=False) + 0.01 * np.eye(4))  # as published
        expected = [mahalanobis(row, x.mean(axis=0), inverse) for row in test[:, i, j]]
        # float32 products of well-conditioned matrices
        np.testing.assert_allclose(norm[:, i, j], expected, rtol=1e-4)


def test_nearest_neighbour_is_scikit_learns():
    kinds = [component("nut", images(8, 0)), component("pin", images(5, 1, shift=3))]
    learnt = reference.learn(found("nearest_neighbour").lessons, kinds)
    assert learnt.memory.vector.shape == (13 * 6, 4)  # so few are all kept
    test = np.concatenate([images(4, 2), images(3, 4, shift=3)])
    scores = scores_of("nearest_neighbour", learnt, test)
    stored = np.concatenate([images(8, 0), images(5, 1, shift=3)]).reshape(-1, 4)
    oracle = NearestNeighbors(n_neighbors=1).fit(stored.astype(np.float64))
    expected = oracle.kneighbors(test.reshape(-1, 4))[0].reshape(7, 2, 3)
    # |a|^2 - 2 a b + |b|^2 in float32: squares of order 50 are off by 1e-5, and so a distance of
    # 0.1 by 1e-4
    norm = np.asarray(scores.latent_norm) / learnt.memory.inv_std
    np.testing.assert_allclose(norm, expected, atol=2e-4)
    assert scores.component.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert learnt.component_names == ("nut", "pin")


@pytest.mark.parametrize("paradigm", ["padim", "nearest_neighbour"])
def test_the_term_is_the_published_one(paradigm):
    assert found(paradigm).terms == ("map_max",)
    assert found(paradigm).nfe == 0
