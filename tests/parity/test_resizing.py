"""Resizing of features and maps against torch's interpolate."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invad_jax.encoders.feature_stack import bilinear_matrix, stack_features
from invad_jax.scoring import upsample

torch = pytest.importorskip("torch", reason="torch is the oracle")


@pytest.mark.parametrize(("grid", "size"), [(8, 32), (7, 32), (16, 256), (3, 2)])
def test_upsampling_is_torchs(grid, size):
    latent_norm = np.random.default_rng(0).random((2, grid, grid), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(latent_norm)[:, None], (size, size), mode="bilinear", align_corners=False
    )[:, 0]
    np.testing.assert_allclose(
        upsample(latent_norm, size), expected.numpy(), rtol=1e-5, atol=1e-6
    )  # float32, another order of the same products


@given(st.tuples(st.integers(1, 24), st.integers(1, 24)))
def test_bilinear_is_torchs_interpolate(size):
    source, target = size
    x = torch.eye(source, dtype=torch.float64)[None]
    expected = torch.nn.functional.interpolate(x, target, mode="linear", align_corners=False)[0].T
    # Positions are exact in float64; the weights are then float32.
    np.testing.assert_allclose(bilinear_matrix(source, target), expected.numpy(), atol=1e-6)


def test_stack_is_torchs_interpolate_in_two_dimensions():
    rng = np.random.default_rng(0)
    fine, coarse = (rng.normal(size=(2, *s)).astype(np.float32) for s in [(11, 8, 3), (4, 5, 2)])
    found = stack_features([jnp.asarray(fine), jnp.asarray(coarse)], "bilinear", 1)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(fine.transpose(0, 3, 1, 2)), (4, 5), mode="bilinear", align_corners=False
    )
    # Four float32 products.
    np.testing.assert_allclose(found[..., :3], resized.numpy().transpose(0, 2, 3, 1), atol=1e-6)
    np.testing.assert_array_equal(found[..., 3:], coarse)
