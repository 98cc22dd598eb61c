"""The fitted prior against SciPy, and what makes it worth having."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from invad_jax import prior
from invad_jax.errors import UserError
from invad_jax.scoring import Prior, score, whiten

GRID, CHANNELS = (2, 3), 4


def correlated(rng, count):
    """Images whose positions each have a mean and a covariance of their own."""
    mixing = np.random.default_rng(7).standard_normal((*GRID, CHANNELS, CHANNELS))
    mixing = np.eye(CHANNELS) + 0.3 * mixing  # well conditioned: shrinking changes little
    mean = np.random.default_rng(8).standard_normal((*GRID, CHANNELS)) * 3
    z = rng.standard_normal((count, *GRID, CHANNELS))
    return mean + np.einsum("hwij,nhwj->nhwi", mixing, z)


def arrays(fitted):
    return Prior(*map(jnp.asarray, (fitted.mean, fitted.whitening, fitted.log_det)))


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    return prior.fit(correlated(rng, 2000), correlated(rng, 500))


def test_nll_is_scipys_under_the_shrunk_covariance(fitted):
    rng = np.random.default_rng(0)
    mean, covariance = prior.moments(correlated(rng, 2000))
    x = correlated(rng, 3)
    expected = np.zeros(3)
    for i, j in np.ndindex(GRID):
        diagonal = np.diag(np.diag(covariance[i, j]))
        shrunk = (1 - fitted.shrinkage) * covariance[i, j] + fitted.shrinkage * diagonal
        expected -= stats.multivariate_normal.logpdf(x[:, i, j], mean[i, j], shrunk)
    nll = score(jnp.asarray(x, jnp.float32), 6, arrays(fitted)).nll
    # float32 products of well-conditioned matrices; a floor of 1e-6 of the variance.
    np.testing.assert_allclose(nll, expected, rtol=1e-4)


def test_whitened_normals_are_close_to_standard_normal(fitted):
    x = correlated(np.random.default_rng(5), 4000).astype(np.float32)
    z = np.asarray(whiten(jnp.asarray(x), arrays(fitted)), np.float64)
    before, after = (np.einsum("nhwi,nhwj->hwij", v, v) / len(v) for v in (x - x.mean(0), z))
    # What is left comes from the shrinkage and from 2000 + 4000 samples.
    assert np.abs(after - np.eye(CHANNELS)).max() < 0.3 < np.abs(before - np.eye(CHANNELS)).max()
    np.testing.assert_allclose(z.mean(0), 0, atol=5 / np.sqrt(2000))  # five standard errors


def test_plenty_of_images_need_no_shrinkage_and_few_need_it(fitted):
    rng = np.random.default_rng(1)
    few = prior.fit(correlated(rng, 6), correlated(rng, 500))
    assert fitted.shrinkage < few.shrinkage
    assert fitted.bits_per_dimension < few.bits_per_dimension
    assert fitted.bits_per_dimension < fitted.bits_per_dimension_standard


def test_without_validation_images_the_fit_uses_them_all():
    x = correlated(np.random.default_rng(2), 50)
    np.testing.assert_allclose(prior.fit(x, None).mean, x.mean(0), rtol=1e-6)  # stored as float32
    assert prior.fit(x[:2], None).shrinkage in prior.SHRINKAGES


def test_a_constant_channel_and_fewer_images_than_channels_are_no_obstacle():
    x = correlated(np.random.default_rng(3), 3)
    x[..., 0] = 1.5
    fitted = prior.fit(x, None)
    assert np.isfinite(fitted.whitening).all()
    assert np.isfinite(score(jnp.asarray(x, jnp.float32), 6, arrays(fitted)).nll).all()


def test_an_anomaly_along_a_narrow_direction_is_found_only_by_the_fitted_prior(fitted):
    """A step that N(0, I) cannot see: small in length, large in standard deviations."""
    rng = np.random.default_rng(4)
    normal = correlated(rng, 200)
    _, vectors = np.linalg.eigh(prior.moments(correlated(rng, 2000))[1])
    anomalous = normal.copy()
    anomalous[:, 0, 0] += 0.8 * vectors[0, 0, :, 0]  # the direction of least variance

    def auroc(prior_arrays):
        a, b = (
            np.asarray(score(jnp.asarray(x, jnp.float32), 6, prior_arrays).latent_norm[:, 0, 0])
            for x in (normal, anomalous)
        )
        return np.mean(b[:, None] > a[None, :])

    assert auroc(arrays(fitted)) > auroc(None) + 0.1


def test_round_trip(fitted, tmp_path):
    prior.write(tmp_path / "prior.npz", fitted)
    again = prior.read(tmp_path / "prior.npz")
    np.testing.assert_array_equal(again.whitening, fitted.whitening)
    assert (again.log_det, again.shrinkage) == (fitted.log_det, fitted.shrinkage)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip"])
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "prior.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"prior\.npz"):
        prior.read(tmp_path / "prior.npz")
    with pytest.raises(UserError, match="absent"):
        prior.read(tmp_path / "absent.npz")


def test_one_image_is_not_enough():
    with pytest.raises(UserError, match="two normal images"):
        prior.fit(np.zeros((1, 1, 1, 1)), None)
