"""Maps that are enlarged later are those that the detector would have made."""

import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.evaluation import maps
from invad_jax.scoring import upsample


@pytest.mark.parametrize("count", [1, maps.AT_A_TIME, maps.AT_A_TIME + 1])
def test_any_number_of_maps(count):
    grids = np.random.default_rng(0).random((count, 3, 3), np.float32)
    expected = upsample(jnp.asarray(grids), 7)
    # Four products of a value; the same sums in another order.
    np.testing.assert_allclose(maps.enlarge(grids, 7), expected, rtol=1e-6)


def test_what_is_as_large_stays():
    grids = np.random.default_rng(0).random((2, 3, 3), np.float32)
    assert maps.enlarge(grids, 3) is grids
