"""The calibration as arrays: the score that they give, next to the one of the host."""

import numpy as np

from invad_jax.config import TERMS
from invad_jax.inference import exporting
from invad_jax.normality import calibrations


def test_scores_in_float32_are_those_of_the_host():
    rng = np.random.default_rng(0)
    kinds = np.repeat(["bolt", "nut"], 50)
    # A likelihood of a hundred thousand nats whose spread is three; a distance about 10.
    large = {"bolt": 284_511.37, "nut": -20_000.73}
    normal = {name: 10 + rng.normal(size=100) for name in TERMS}
    normal["nll"] = np.array([large[kind] for kind in kinds]) + 3 * rng.normal(size=100)
    heat = dict.fromkeys(("bolt", "nut"), (1.0, 2.0))
    fitted = calibrations.fit(
        normal, kinds, ("bolt", "nut"), ("nll", "map_top"), heat, 0.1, held_out=True
    )
    component = np.repeat([0, 1], 200)
    nll = np.array([large[name] for name in ("bolt", "nut")])[component]
    values = {
        "nll": (nll + 9 * rng.normal(size=400)).astype(np.float32),
        "map_top": (10 + 3 * rng.normal(size=400)).astype(np.float32),
    }
    constants = exporting.constants_of(fitted)
    together = np.stack([values["nll"], values["map_top"]], axis=1)
    score, decision = exporting.judged(constants, together, component)
    expected = fitted.image_score(values, component)
    # Of float32 only the last steps: without the remainder of the location it is 5e-3.
    np.testing.assert_allclose(score, expected, atol=1e-5)
    np.testing.assert_array_equal(decision, expected > fitted.threshold(component))
    assert 0 < np.mean(decision) < 1
