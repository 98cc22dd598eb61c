"""The others that exact pixel metrics are timed beside compute the same things."""

import numpy as np
import pixel_metrics
import pytest

from invad_jax import metrics
from invad_jax.benchmarks.whole import drawn_maps


def test_the_other_lanes_compute_what_ours_does():
    given = drawn_maps(6)
    ours = metrics.pixel_metrics(*given)
    for name, value in pixel_metrics.by_sklearn(*given).items():
        assert value == pytest.approx(ours[name], abs=1e-9)
    # 200 thresholds see the curve at a few places only.
    assert pixel_metrics.region_loop(*given) == pytest.approx(ours["aupro"], abs=0.01)


def test_parts_are_the_same_maps_each_time():
    parts = pixel_metrics.drawn_in_parts(130)
    (one, mask, _), *others = parts()
    assert 1 + len(others) == 2
    np.testing.assert_array_equal(one, next(iter(parts()))[0])
    assert mask[:: pixel_metrics.ONE_IN].any(axis=(1, 2)).all()
    assert not mask[1 :: pixel_metrics.ONE_IN].any()
