"""Maps that are enlarged later are those that the detector would have made."""

import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.data.maps import enlarge
from invad_jax.scoring import upsample


@pytest.mark.parametrize(("shape", "size"), [((1, 3, 3), 7), ((5, 4, 3), 64), ((2, 8, 8), 5)])
def test_any_number_of_maps(shape, size):
    grids = np.random.default_rng(0).random(shape, np.float32)
    found = enlarge(grids, size)
    assert found.dtype == np.float32
    # Four products of a value between 0 and 1; the same sums in another order.
    np.testing.assert_allclose(found, upsample(jnp.asarray(grids), size), atol=1e-6)


def test_what_is_as_large_stays():
    grids = np.random.default_rng(0).random((2, 3, 3), np.float32)
    assert enlarge(grids, 3) is grids
