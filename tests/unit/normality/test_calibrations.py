"""Each kind of product has a scale and a threshold of its own."""

import numpy as np
import pytest

from invad_jax.normality import calibration, calibrations

NAMES = ("bottle", "cookie", "cube")
HEAT = {"bottle": (1.0, 2.0), "cookie": (5.0, 9.0)}


def normals(seed=0):
    """Of cubes there is none; the scores of cookies are higher and wider than those of bottles."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(10, 1, 200), rng.normal(50, 20, 30)])
    return {"map_top": values}, ["bottle"] * 200 + ["cookie"] * 30


@pytest.fixture
def fitted():
    values, component = normals()
    return calibrations.fit(values, component, NAMES, ["map_top"], HEAT, 0.01, held_out=True)


def test_each_kind_is_fitted_on_its_own_images(fitted):
    values, component = normals()
    for k, name in enumerate(NAMES[:2]):
        own = {"map_top": values["map_top"][np.array(component) == name]}
        assert fitted.each[k] == calibration.fit(own, ["map_top"], HEAT[name], 0.01, held_out=True)
        assert fitted.heat(k) == HEAT[name]
    assert [one.num_normals for one in fitted.each] == [200, 30, 230]


def test_a_kind_without_normal_images_takes_the_scale_of_all(fitted):
    values, _ = normals()
    of_all = calibration.fit(values, ["map_top"], HEAT["cookie"], 0.01, held_out=True)
    assert fitted.each[2] == of_all


def test_images_are_scored_on_the_scale_of_the_kind_that_they_were_judged_as(fitted):
    values, component = {"map_top": np.array([14.0, 14.0, 90.0, 90.0])}, np.array([0, 1, 0, 1])
    score = fitted.image_score(values, component)
    for i, k in enumerate(component):
        alone = calibration.image_score(fitted.each[k], {"map_top": values["map_top"][i : i + 1]})
        assert score[i] == alone[0]
    # 14 is four standard deviations above a bottle, and 90 two above a cookie.
    assert (score > fitted.threshold(component)).tolist() == [True, False, True, False]


def test_one_threshold_for_both_would_miss_every_bad_bottle():
    """What this is for: bad ones of the tighter kind are within the range of the other."""
    values, component = normals()
    bad = {"map_top": np.full(20, 20.0)}
    together = calibration.fit(values, ["map_top"], (1, 2), 0.01, held_out=True)
    assert not (calibration.image_score(together, bad) > together.threshold).any()
    each = calibrations.fit(values, component, NAMES, ["map_top"], HEAT, 0.01, held_out=True)
    of_bottles = np.zeros(20, int)
    assert (each.image_score(bad, of_bottles) > each.threshold(of_bottles)).all()


def test_the_rate_that_few_images_cannot_promise_is_said_of_each_kind(fitted):
    doubts = fitted.doubts
    assert [line.split(":")[0] for line in doubts] == ["cookie", "cube"]
    assert "30 normal images" in doubts[0]


def test_a_kind_may_be_honest_where_another_is_not():
    values = {"map_top": np.arange(20.0)}
    component = np.repeat(["bottle", "cookie"], 10).tolist()
    fitted = calibrations.fit(
        values, component, NAMES[:2], ["map_top"], HEAT, 0.1, held_out=["cookie"]
    )
    assert [one.held_out for one in fitted.each] == [False, True]


def test_more_kinds_than_numpy_takes_choices():
    names = [f"kind {i}" for i in range(40)]
    values = {"map_top": np.repeat(np.arange(40.0), 5) + np.tile(np.linspace(0, 0.1, 5), 40)}
    component = np.repeat(names, 5).tolist()
    heat = dict.fromkeys(names, (1.0, 2.0))
    fitted = calibrations.fit(values, component, names, ["map_top"], heat, 0.5, held_out=True)
    score = fitted.image_score({"map_top": np.arange(40.0) + 0.05}, np.arange(40))
    np.testing.assert_allclose(score, 0, atol=1e-9)  # medians in float64 over a spread of 0.04
