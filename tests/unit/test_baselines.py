"""PaDiM against SciPy, the nearest neighbour against scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.neighbors import NearestNeighbors

from invad_jax import baselines, reference
from invad_jax.baselines import fit_memory, fit_padim, score_against
from invad_jax.config import Config
from invad_jax.config_io import override
from invad_jax.prior import Component
from invad_jax.scoring import score_under


def images(count, seed, shift=0.0):
    """(N, h, w, C) float32 of a 2 x 3 grid."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(4) + 0.3 * np.random.default_rng(9).standard_normal((4, 4))
    return (rng.standard_normal((count, 2, 3, 4)) @ mixing + shift).astype(np.float32)


def component(name, x):
    return Component(name, np.array_split(x[:, None], 3))


def test_padim_is_scipys_mahalanobis_distance():
    normal, test = images(25, 0), images(3, 1, shift=0.5)
    fitted = fit_padim([component("nut", normal)])
    norm = score_under(reference.to_device(fitted), jnp.asarray(test[:, None]), 6).latent_norm
    for i, j in np.ndindex(2, 3):
        x = normal[:, i, j].astype(np.float64)
        inverse = np.linalg.inv(np.cov(x, rowvar=False) + 0.01 * np.eye(4))  # as published
        expected = [mahalanobis(row, x.mean(axis=0), inverse) for row in test[:, i, j]]
        # float32 products of well-conditioned matrices
        np.testing.assert_allclose(norm[:, i, j], expected, rtol=1e-4)


def test_nearest_neighbour_is_scikit_learns():
    kinds = [component("nut", images(8, 0)), component("pin", images(5, 1, shift=3))]
    memory = fit_memory(kinds)
    assert memory.vector.shape == (13 * 6, 4)
    test = images(4, 2, shift=1.5)
    scores = score_against(memory, jnp.asarray(test), 6)
    stored = np.concatenate([images(8, 0), images(5, 1, shift=3)]).reshape(-1, 4)
    oracle = NearestNeighbors(n_neighbors=1).fit(stored.astype(np.float64))
    expected = oracle.kneighbors(test.reshape(-1, 4))[0].reshape(4, 2, 3)
    # |a|^2 - 2 a b + |b|^2 in float32: squares of order 50 are off by 1e-5, and so a distance of
    # 0.1 by 1e-4
    np.testing.assert_allclose(scores.latent_norm, expected, atol=2e-4)
    np.testing.assert_allclose(scores.nll, 0.5 * (expected**2).sum(axis=(1, 2)), rtol=1e-4)


def test_a_stored_vector_is_at_no_distance():
    normal = images(4, 0)
    scores = score_against(fit_memory([component("nut", normal)]), jnp.asarray(normal), 6)
    assert np.all(np.asarray(scores.latent_norm) < 5e-3)  # root of a float32 rounding of squares
    assert np.all(np.isfinite(scores.anomaly_map))


def test_the_memory_is_a_sample_without_repetition():
    normal = np.arange(20 * 6 * 4, dtype=np.float32).reshape(20, 2, 3, 4)
    memory = fit_memory([component("nut", normal)], size=50)
    stored = {tuple(row) for row in memory.vector}
    assert len(stored) == len(memory.vector) == 50
    assert stored < {tuple(row) for row in normal.reshape(-1, 4)}
    again = fit_memory([component("nut", normal)], size=50)
    np.testing.assert_array_equal(again.vector, memory.vector)
    assert baselines.MEMORY_SIZE > 50


@pytest.mark.parametrize("kind", [fit_padim, fit_memory])
def test_round_trip(kind, tmp_path):
    paradigm = {fit_padim: "padim", fit_memory: "nearest_neighbour"}[kind]
    config = override(Config(), [f"inversion.paradigm={paradigm}"])
    learnt = kind([component("nut", images(6, 0)), component("pin", images(6, 1))])
    reference.write(tmp_path, learnt)
    again = reference.read(tmp_path, config)
    assert type(again) is type(learnt)
    assert reference.component_names(again) == (("nut", "pin") if kind is fit_padim else ("",))
    ours, theirs = (reference.to_device(of)._asdict() for of in (again, learnt))
    assert [name for name, array in ours.items() if array is None] == (
        ["inv_std"] if kind is fit_padim else []
    )
    for name in {*ours} - {"inv_std"}:
        np.testing.assert_array_equal(ours[name], theirs[name])
