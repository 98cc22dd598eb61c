"""Gaussians of few images in many channels, against NumPy, SciPy and scikit-learn."""

import numpy as np
import pytest
from scipy import stats
from sklearn.covariance import oas as sklearn_oas

from invad_jax.normality import gaussian
from invad_jax.normality.gaussian import Moments


def spd(rng, count, channels):
    """Well-conditioned covariances, (P, C, C)."""
    mixing = np.eye(channels) + 0.3 * rng.standard_normal((count, channels, channels))
    return mixing @ np.swapaxes(mixing, 1, 2)


def implied(factor):
    """The covariances that low-rank factors stand for, by the inverse of their precisions."""
    B, d = factor.projection, factor.inv_std
    return np.linalg.inv(np.stack([np.diag(x**2) for x in d]) - np.swapaxes(B, 1, 2) @ B)


@pytest.fixture
def small(monkeypatch):
    """Low rank from five channels on, and of rank 2."""
    monkeypatch.setattr(gaussian, "MAX_DENSE_CHANNELS", 4)
    monkeypatch.setattr(gaussian, "RANK", 2)


@pytest.mark.parametrize("sizes", [[30], [7, 16, 7], [1] * 30])
def test_moments_are_numpys_in_any_batches(sizes):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((30, 3, 4)) + 5).astype(np.float32)
    found = gaussian.moments(np.split(x, np.cumsum(sizes)[:-1]))
    assert found.count == 30
    wide = x.astype(np.float64)
    # float64; a square of 25 less one of 25 for a variance of 1 costs two digits of sixteen
    np.testing.assert_allclose(found.mean, wide.mean(axis=0), rtol=1e-13)
    for p in range(3):
        expected = np.cov(wide[:, p], rowvar=False, bias=True)
        np.testing.assert_allclose(found.covariance[p], expected, rtol=1e-12, atol=1e-12)


def test_dense_factors_whiten():
    S = spd(np.random.default_rng(1), 3, 4)
    factor = gaussian.precision(S)
    assert factor.inv_std is None
    W = factor.projection
    # float64 of matrices whose condition is a few hundreds at most
    np.testing.assert_allclose(np.swapaxes(W, 1, 2) @ W, np.linalg.inv(S), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(factor.log_det, np.linalg.slogdet(S)[1], rtol=1e-12, atol=1e-12)


def test_low_rank_keeps_all_variances_and_is_its_own_inverse(small):
    """The factors, by Woodbury's identity, are the precision and determinant of D + A A^T."""
    S = spd(np.random.default_rng(2), 3, 7)
    factor = gaussian.precision(S)
    assert factor.projection.shape == (3, 2, 7)
    C = implied(factor)
    variances = np.diagonal(S, axis1=1, axis2=2)
    # float64, as above
    np.testing.assert_allclose(np.diagonal(C, axis1=1, axis2=2), variances, rtol=1e-9)
    np.testing.assert_allclose(factor.log_det, np.linalg.slogdet(C)[1], rtol=1e-9, atol=1e-9)
    std = np.sqrt(variances)
    off_diagonal = (C / (std[:, :, None] * std[:, None, :])) * (1 - np.eye(7))
    rank = np.linalg.matrix_rank(off_diagonal + 0, tol=1e-9)
    assert np.all(rank > 2)  # a diagonal was taken off a matrix of rank 2: what remains has more
    x = np.random.default_rng(3).standard_normal((5, 7))
    for p in range(3):
        u = x * factor.inv_std[p]
        square = np.sum(u**2, axis=1) - np.sum((x @ factor.projection[p].T) ** 2, axis=1)
        expected = -2 * stats.multivariate_normal(np.zeros(7), C[p]).logpdf(x)
        expected -= 7 * np.log(2 * np.pi) + factor.log_det[p]
        np.testing.assert_allclose(square, expected, rtol=1e-9, atol=1e-9)


def test_low_rank_is_exact_where_the_covariance_is_low_rank_plus_noise(small):
    """As it is after shrinking towards a multiple of the identity, from few images."""
    rng = np.random.default_rng(4)
    A = rng.standard_normal((9, 2))
    S = 0.01 * np.eye(9) + A @ A.T
    factor = gaussian.precision([S])
    # float64 of a matrix whose condition is about a thousand
    np.testing.assert_allclose(implied(factor)[0], S, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(factor.log_det[0], np.linalg.slogdet(S)[1], rtol=1e-9)
    assert np.abs(np.diag(np.diag(S)) - S).max() > 0.2  # far from diagonal


def test_identical_images_leave_a_finite_factor(small):
    del small
    fitted = gaussian.fit(gaussian.moments([np.ones((5, 2, 3))]))
    distance = np.sum((fitted.factor.projection @ np.full(3, 10.0)) ** 2, axis=-1)
    assert np.all(distance < np.finfo(np.float32).max)  # of an image ten standard units away
    assert np.all(distance > 1e6)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_shrinkage_is_scikit_learns(scale):
    """Of one position; its formula leaves out 2 / C of Chen's, 0.8 % in 250 channels."""
    rng = np.random.default_rng(5)
    x = scale * rng.standard_normal((20, 250)) * rng.uniform(0.1, 3, 250)
    found = gaussian.oas(gaussian.moments([x[:, None]]))
    _, expected = sklearn_oas(x)
    assert 0.1 < expected < 0.99
    assert found == pytest.approx(expected, rel=3 * 2 / 250)


def test_shrinkage_by_hand():
    """S = diag(3, 1), N = 10, C = 2: over = 0 * 10 + 16, under = 10 * (10 - 8); the other position
    has nothing to say."""
    S = np.stack([np.diag([3.0, 1.0]), np.zeros((2, 2))])
    assert gaussian.oas(Moments(10, np.zeros((2, 2)), S)) == pytest.approx(16 / 20)
    assert gaussian.oas(Moments(10, np.zeros((2, 2)), S[1:].repeat(2, 0))) == 1.0
    assert gaussian.oas(Moments(10, np.zeros((2, 2)), np.stack([np.eye(2)] * 2))) == 1.0


def test_plenty_of_images_need_no_shrinkage_and_few_need_it():
    rng = np.random.default_rng(6)
    true = spd(rng, 3, 6)
    root = np.linalg.cholesky(true)

    def error(count, shrunk):
        x = np.einsum("pij,npj->npi", root, rng.standard_normal((count, 3, 6)))
        of = gaussian.moments([x])
        if not shrunk:
            return np.linalg.norm(of.covariance - true), 0.0
        fitted = gaussian.fit(of)
        W = fitted.factor.projection
        return np.linalg.norm(np.linalg.inv(np.swapaxes(W, 1, 2) @ W) - true), fitted.shrinkage

    few_error, few = np.mean([error(5, True) for _ in range(20)], axis=0)
    raw_error, _ = np.mean([error(5, False) for _ in range(20)], axis=0)
    many_error, many = error(20_000, True)
    assert many < 0.01 < 0.2 < few
    assert many_error < few_error < raw_error


def test_fit_is_the_shrunk_covariance():
    rng = np.random.default_rng(7)
    x = rng.standard_normal((12, 3, 5)) * rng.uniform(0.2, 2, (3, 5))
    fitted = gaussian.fit(gaussian.moments([x]))
    S = np.stack([np.cov(x[:, p], rowvar=False, bias=True) for p in range(3)])
    variance = np.trace(S, axis1=1, axis2=2).mean() / 5
    expected = (1 - fitted.shrinkage) * S + fitted.shrinkage * variance * np.eye(5)
    assert 0 < fitted.shrinkage < 1
    W = fitted.factor.projection
    found = np.linalg.inv(np.swapaxes(W, 1, 2) @ W)
    np.testing.assert_allclose(found, expected, atol=2e-6 * variance)  # the floor of 1e-6
    np.testing.assert_allclose(fitted.factor.log_det, np.linalg.slogdet(expected)[1], atol=1e-4)


@pytest.mark.parametrize("limit", [2, 100])
def test_what_never_varies_is_no_obstacle(monkeypatch, limit):
    """A constant channel, a constant position, fewer images than channels; dense and low rank."""
    monkeypatch.setattr(gaussian, "MAX_DENSE_CHANNELS", limit)
    x = np.random.default_rng(8).standard_normal((3, 4, 6))
    x[:, :, 0] = 1.5
    x[:, 2] = 0.1
    factor = gaussian.fit(gaussian.moments([x])).factor
    assert (factor.inv_std is None) == (limit == 100)
    assert np.isfinite(factor.projection).all()
    assert np.isfinite(factor.log_det).all()
