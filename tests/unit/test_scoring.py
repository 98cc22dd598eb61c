"""The scorer against SciPy and torch."""

import jax
import numpy as np
import pytest
from scipy import stats

from invad_jax.scoring import score, upsample

X_T = np.asarray(jax.random.normal(jax.random.key(0), (3, 4, 5, 6))) * 1.5


def test_nll_is_scipys():
    expected = -stats.norm.logpdf(X_T.astype(np.float64)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(score(X_T, 8).nll, expected, rtol=1e-6)  # float32 sum of 120 terms


def test_norm_and_range():
    scores = score(X_T, 8)
    norm = np.linalg.norm(X_T.astype(np.float64), axis=-1)
    np.testing.assert_allclose(scores.latent_norm, norm, rtol=1e-6)  # float32 rounding
    np.testing.assert_allclose(
        scores.map_range, norm.max(axis=(1, 2)) - norm.min(axis=(1, 2)), rtol=1e-5
    )  # a difference of float32 numbers


@pytest.mark.parametrize(("grid", "size"), [(8, 32), (7, 32), (16, 256), (3, 2)])
def test_upsampling_is_torchs(grid, size):
    torch = pytest.importorskip("torch", reason="torch is the oracle; pip install torch")
    latent_norm = np.random.default_rng(0).random((2, grid, grid), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(latent_norm)[:, None], (size, size), mode="bilinear", align_corners=False
    )[:, 0]
    np.testing.assert_allclose(
        upsample(latent_norm, size), expected.numpy(), rtol=1e-5, atol=1e-6
    )  # float32, another order of the same products


def test_more_abnormal_scores_higher():
    base, worse = score(X_T, 8), score(2 * X_T, 8)
    for name in base._fields:
        assert np.all(np.asarray(getattr(worse, name)) > np.asarray(getattr(base, name))), name
