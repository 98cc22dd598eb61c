"""The scorer against SciPy and torch, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from sklearn.neighbors import NearestNeighbors

from invad_jax import scoring
from invad_jax.config import TERMS, Config
from invad_jax.inference import assembly
from invad_jax.normality import memory_bank
from invad_jax.planning.flops import count_flops
from invad_jax.scoring import Memory, Prior, Reference

score = jax.jit(scoring.score, static_argnums=1)
score_under = jax.jit(scoring.score_under, static_argnums=2)
summarise = jax.jit(scoring.summarise, static_argnums=2)
X_T = np.asarray(jax.random.normal(jax.random.key(0), (3, 4, 5, 6))) * 1.5
K, M, GRID, C = 3, 2, (2, 3), 4


def test_nll_is_scipys():
    expected = -stats.norm.logpdf(X_T.astype(np.float64)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(score(X_T, 8).nll, expected, rtol=1e-6)  # float32 sum of 120 terms


def test_norm_and_what_is_made_of_it():
    scores = score(X_T, 8)
    norm = np.linalg.norm(X_T.astype(np.float64), axis=-1).reshape(3, 20)
    np.testing.assert_allclose(scores.latent_norm, norm.reshape(3, 4, 5), rtol=1e-6)  # float32
    np.testing.assert_allclose(
        scores.map_range, norm.max(axis=1) - norm.min(axis=1), rtol=1e-5
    )  # a difference of float32 numbers
    np.testing.assert_allclose(scores.map_mean, norm.mean(axis=1), rtol=1e-6)  # float32
    np.testing.assert_allclose(scores.map_max, norm.max(axis=1), rtol=1e-6)
    assert scores.component.tolist() == [0, 0, 0]


def test_the_top_is_a_fiftieth_of_the_positions():
    norm = np.random.default_rng(0).permutation(256).astype(np.float32).reshape(1, 16, 16)
    scores = summarise(jnp.asarray(norm), jnp.zeros(1), 16)
    assert scores.map_top.tolist() == [np.mean([251, 252, 253, 254, 255])]


def test_the_top_of_few_positions_is_one_of_them():
    scores = summarise(jnp.array([[[1.0, 5.0], [2.0, 3.0]]]), jnp.zeros(1), 2)
    assert scores.map_top.tolist() == [5.0]


def test_terms_are_one_number_an_image():
    scores = score(X_T, 8)
    assert {name: getattr(scores, name).shape for name in TERMS} == dict.fromkeys(TERMS, (3,))


def test_more_abnormal_scores_higher():
    base, worse = score(X_T, 8), score(2 * X_T, 8)
    for name in ("anomaly_map", "latent_norm", *TERMS):
        assert np.all(np.asarray(getattr(worse, name)) > np.asarray(getattr(base, name))), name


def mixture(seed=0):
    """(mean, covariance, weight) of K components, well conditioned."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(C) + 0.2 * rng.standard_normal((K, M, *GRID, C, C))
    mean = 0.7 * rng.standard_normal((K, M, *GRID, C))
    return mean, mixing @ np.swapaxes(mixing, -1, -2), np.array([0.5, 0.3, 0.2])


def prior_of(mean, covariance, weight):
    """Dense, by inverse symmetric roots: any W with W S W^T = I will do."""
    values, vectors = np.linalg.eigh(covariance)
    root = np.swapaxes(vectors, -1, -2) / np.sqrt(values)[..., None]
    log_det = np.log(values).sum(axis=(1, -1))  # (K, h, w)
    arrays = (mean, root, log_det, np.log(weight))
    mean, root, log_det, log_weight = (jnp.asarray(a, jnp.float32) for a in arrays)
    return Reference(Prior(mean, root, None, log_det, log_weight))


def log_densities(mean, covariance, x):
    """Oracle: (K, B, h, w) of SciPy, float64, both states of a position together."""
    result = np.zeros((K, len(x), *GRID))
    for k, m, i, j in np.ndindex(K, M, *GRID):
        law = stats.multivariate_normal(mean[k, m, i, j], covariance[k, m, i, j])
        result[k, :, i, j] += law.logpdf(x[:, m, i, j])
    return result


def test_a_mixture_is_scipys():
    of = mixture()
    x = np.random.default_rng(1).standard_normal((40, M, *GRID, C)).astype(np.float32)
    mean, covariance, weight = of
    log_density = log_densities(mean, covariance, x.astype(np.float64)).reshape(K, 40, -1)
    joint = np.log(weight)[:, None] + log_density.sum(axis=-1)  # (K, B)
    assert np.diff(np.sort(joint, axis=0), axis=0)[-1].min() < 1  # the sum matters for some
    scores = score_under(prior_of(*of), jnp.asarray(x), 6)
    # float32 sums of 48 squares
    np.testing.assert_allclose(scores.nll, -special.logsumexp(joint, axis=0), rtol=2e-5)
    best_half = np.sort(log_density, axis=-1)[..., -3:].sum(axis=-1)  # of six positions
    of_half = np.log(weight)[:, None] + best_half
    assert np.diff(np.sort(of_half, axis=0), axis=0)[-1].min() > 1e-3  # above rounding
    likeliest = of_half.argmax(axis=0)
    assert set(likeliest) == set(range(K))
    assert np.any(likeliest != joint.argmax(axis=0))
    np.testing.assert_array_equal(scores.component, likeliest)
    for b, (i, j) in [(0, (0, 0)), (7, (1, 2)), (23, (1, 1))]:
        k = likeliest[b]
        square = 0.0
        for m in range(M):
            d = x[b, m, i, j] - mean[k, m, i, j]
            square += d @ np.linalg.inv(covariance[k, m, i, j]) @ d
        assert scores.latent_norm[b, i, j] == pytest.approx(np.sqrt(square), rel=1e-5)  # float32


def test_a_large_anomaly_does_not_decide_what_it_is_held_against():
    """Two kinds that differ a little everywhere; a third of an image far on the other's side."""
    shape = (1, 2, 3, 4)
    mean = jnp.stack([jnp.zeros(shape), jnp.ones(shape)])
    identity = jnp.broadcast_to(jnp.eye(4), (2, *shape, 4))
    prior = Prior(mean, identity, None, jnp.zeros((2, 2, 3)), jnp.log(jnp.array([0.5, 0.5])))
    image = np.zeros((1, *shape), np.float32)
    image[0, 0, 0, :2] = 50
    scores = score_under(Reference(prior), jnp.asarray(image), 6)
    assert scores.component.tolist() == [0]
    assert scores.latent_norm[0, 1].tolist() == [0, 0, 0]


def memory_of(vector, kind, inv_std):
    vector, inv_std = jnp.asarray(vector, jnp.float32), jnp.asarray(inv_std, jnp.float32)
    return Memory(vector, jnp.asarray(kind, jnp.int32), inv_std)


@pytest.mark.parametrize("at_a_time", [1024, 20])
def test_the_nearest_vector_is_scikit_learns(monkeypatch, at_a_time):
    monkeypatch.setattr(scoring, "_VECTORS_AT_A_TIME", at_a_time)
    rng = np.random.default_rng(3)
    vector, kind = rng.standard_normal((50, C)), rng.integers(0, 3, 50)
    x = rng.standard_normal((7, M, *GRID, C)).astype(np.float32)  # x0 is the first
    position = x[:, 0].reshape(-1, C)
    distance, index = NearestNeighbors(n_neighbors=1).fit(vector).kneighbors(position)
    reference = Reference(memory=memory_of(vector, kind, 2.0))
    nearest = jax.jit(lambda reference, x: scoring.score_nearest(reference, x, 6))
    scores = nearest(reference, jnp.asarray(x))
    # |a|^2 - 2 a b + |b|^2 of numbers of order one, in float32
    np.testing.assert_allclose(scores.latent_norm, 2 * distance.reshape(7, *GRID), rtol=1e-4)
    law = stats.multivariate_normal(np.zeros(C), 0.25 * np.eye(C))
    nll = -law.logpdf(position - vector[index[:, 0]]).reshape(7, -1).sum(axis=1)
    np.testing.assert_allclose(scores.nll, nll, rtol=1e-5)  # float32 sum of 24 squares
    votes = kind[index[:, 0]].reshape(7, -1)
    assert scores.component.tolist() == [np.bincount(row).argmax() for row in votes]


def test_one_standard_normal_component_is_the_papers_score():
    shape = (1, 1, 4, 5, 6)
    identity = jnp.broadcast_to(jnp.eye(6), (*shape, 6))
    prior = Prior(jnp.zeros(shape), identity, None, jnp.zeros((1, 4, 5)), jnp.zeros(1))
    ours, papers = score_under(Reference(prior), jnp.asarray(X_T)[:, None], 8), score(X_T, 8)
    for name in ("anomaly_map", "latent_norm", *TERMS):  # float32, squares in another order
        np.testing.assert_allclose(getattr(ours, name), getattr(papers, name), rtol=1e-5)


def test_low_rank_is_the_dense_covariance_that_it_stands_for():
    """D + A A^T by Woodbury's identity, as `Prior` states it, against the covariance itself."""
    rng = np.random.default_rng(2)
    mean, _, weight = mixture()
    A = rng.standard_normal((K, M, *GRID, C, 2))
    d = rng.uniform(0.5, 2, (K, M, *GRID, C))
    covariance = d[..., None] * np.eye(C) + A @ np.swapaxes(A, -1, -2)
    scaled = A / np.sqrt(d)[..., None]
    inner = np.linalg.inv(np.eye(2) + np.swapaxes(scaled, -1, -2) @ scaled)
    half = np.swapaxes(np.linalg.cholesky(inner), -1, -2)  # half^T half = inner
    basis = half @ np.swapaxes(scaled, -1, -2) / np.sqrt(d)[..., None, :]
    dense = prior_of(mean, covariance, weight)
    low = Reference(
        dense.prior._replace(
            projection=jnp.asarray(basis, jnp.float32),
            inv_std=jnp.asarray(1 / np.sqrt(d), jnp.float32),
        )
    )
    x = jnp.asarray(rng.standard_normal((9, M, *GRID, C)), jnp.float32)
    a, b = score_under(low, x, 6), score_under(dense, x, 6)
    np.testing.assert_array_equal(a.component, b.component)
    for name in ("latent_norm", *TERMS):  # a difference of float32 squares
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-4, err_msg=name)


def test_the_reference_costs_under_a_hundredth_of_the_network():
    """Operations at the paper's size: 15 categories, x_T, the largest memory of x0."""
    h, w, channels, components, states = 16, 16, 272, 15, 1
    config = Config()

    def abstract(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    prior = Prior(
        abstract(components, states, h, w, channels),
        abstract(components, states, h, w, channels, channels),
        None, abstract(components, h, w), abstract(components),
    )  # fmt: skip
    image = abstract(1, states, h, w, channels)
    # XLA counts the body of a loop once, so: of one component, times their number.
    one = jax.jit(scoring.mahalanobis, static_argnums=1).lower(prior, 0, image).cost_analysis()
    ours = components * one["flops"]
    assert ours > components * states * h * w * channels**2 * 2  # the products are in it
    traced = jax.make_jaxpr(lambda p, x: scoring.score_under(Reference(p), x, 256))(prior, image)
    assert count_flops(traced) == pytest.approx(ours, rel=0.05)  # products alone, loop unrolled
    params = assembly.abstract_params(config, (h, w, channels))
    network = count_flops(
        jax.make_jaxpr(lambda p, x, t: assembly.denoise(config, p, x, t))(
            params, abstract(1, h, w, channels), jax.ShapeDtypeStruct((1,), jnp.int32)
        )
    )
    assert config.denoiser.name == "dit"
    kept = int(memory_bank.SHARE * memory_bank.POOL)
    vector = abstract(kept, channels)
    x0 = abstract(1, h, w, channels)
    search = count_flops(jax.make_jaxpr(scoring.nearest)(vector, x0))
    assert search == kept * h * w * channels * 2
    assert ours + search < 0.01 * network  # of one evaluation of the three
