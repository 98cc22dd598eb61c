"""One scale, one threshold: what is guaranteed, what is extrapolated."""

import math

import numpy as np
import pytest
from scipy import stats

from invad_jax.errors import UserError
from invad_jax.normality import calibration, promise

HEAT = (1.0, 2.0)
TERMS = ("nll", "map_range")


def normals(count, seed=0):
    """Skewed terms of very different size, as the scorer gives them."""
    rng = np.random.default_rng(seed)
    return {
        "nll": 1500 + 10 * rng.gamma(4, size=count),
        "map_range": 1 + 0.2 * rng.gamma(4, size=count),
    }


def pair(nll, map_range):
    return {"nll": np.asarray(nll), "map_range": np.asarray(map_range)}


def fit_on(values, rate, terms=TERMS, held_out=True):
    return calibration.fit(values, terms, HEAT, rate, held_out)


def fit(count, rate, seed=0):
    return fit_on(normals(count, seed), rate)


def test_constants_are_median_and_mad():
    values = normals(51)
    fitted = fit_on(values, 0.1, held_out=False)
    assert [term.name for term in fitted.terms] == ["nll", "map_range"]
    for term in fitted.terms:
        assert term.location == np.median(values[term.name])
        # scale="normal" divides by the Gaussian quantile itself, 1.4826 is it to four digits
        expected = stats.median_abs_deviation(values[term.name], scale="normal")
        assert term.scale == pytest.approx(expected, rel=1e-4)
    assert (fitted.num_normals, fitted.held_out, fitted.false_positive_rate) == (51, False, 0.1)


def test_score_rises_with_both_terms():
    fitted = fit(30, 0.1)
    nll, map_range = np.array([1400.0, 1500, 1501, 3000]), np.array([0.1, 1, 1.1, 9])
    base = calibration.image_score(fitted, pair(nll, map_range))
    assert np.all(np.diff(calibration.image_score(fitted, pair(nll, np.ones(4)))) > 0)
    assert np.all(np.diff(calibration.image_score(fitted, pair(np.full(4, 1e3), map_range))) > 0)
    assert base.dtype == np.float64
    assert base.shape == (4,)


@pytest.mark.parametrize("terms", [("nll",), ("map_range",), ("map_range", "nll")])
def test_the_score_is_the_sum_of_the_terms_that_were_chosen(terms):
    fresh = normals(20, seed=1) | {"map_max": np.full(20, np.nan)}  # not asked for, not looked at
    fitted = fit_on(normals(40), 0.1, terms)
    expected = 0
    for name in terms:
        of = normals(40)[name]
        spread = 1.4826 * stats.median_abs_deviation(of)
        expected = expected + (fresh[name] - np.median(of)) / spread
    # rounding of 1500 in float64 over a spread of 0.2
    np.testing.assert_allclose(calibration.image_score(fitted, fresh), expected, atol=1e-9)


@pytest.mark.parametrize("rate", [0, 0.001, 0.1, 1])
def test_units_of_the_terms_do_not_matter(rate):
    def changed(values):
        return pair(0.01 * values["nll"] - 7, 50 * values["map_range"] + 3)

    fresh = normals(20, seed=1)
    ours, theirs = fit_on(normals(40), rate), fit_on(changed(normals(40)), rate)
    np.testing.assert_allclose(
        calibration.image_score(theirs, changed(fresh)),
        calibration.image_score(ours, fresh),
        atol=1e-9,  # 1500 in float64 over a spread of 0.2: 1e-12, and room
    )
    assert theirs.threshold == pytest.approx(ours.threshold, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "scale"),
    [([3, 3, 3, 3, 5], math.sqrt(4 / 5)), ([3, 3, 3], 1.0), ([0.1] * 7, 1.0), ([3], 1.0)],
)
def test_degenerate_spread(values, scale):
    """More than half equal: root-mean-square deviation from the median; all equal: 1."""
    nll, _ = fit_on(pair(values, np.arange(len(values))), 0.1).terms
    assert nll.scale == pytest.approx(scale, rel=1e-12)  # rounding
    assert nll.location == values[0]


@pytest.mark.parametrize(
    ("count", "rate", "exceeding"),
    [(99, 0.01, 1), (199, 0.01, 2), (99, 0.29, 29), (19, 0.05, 1), (100, 0.5, 50), (9, 0.99, 9)],
)
def test_conformal_threshold_is_an_order_statistic(count, rate, exceeding):
    """(n + 1) a normals of n + 1 may exceed; 0.29 * 100 in binary is below 29."""
    fitted = fit(count, rate)
    score = calibration.image_score(fitted, normals(count))
    assert fitted.threshold == np.sort(score)[::-1][exceeding - 1]
    assert (score > fitted.threshold).sum() == exceeding - 1
    assert fitted.guaranteed_false_positive_rate == exceeding / (count + 1)
    assert fitted.guaranteed_false_positive_rate <= rate + 1e-15  # the same decimal, rounded


@pytest.mark.parametrize(("count", "rate"), [(99, 0.01), (499, 0.05), (1999, 0.01)])
def test_false_positive_rate_on_fresh_normals(count, rate):
    """False alarms among m fresh normals are beta-binomial, whatever the distribution."""
    fitted, fresh = fit(count, rate), 20_000
    alarms = (calibration.image_score(fitted, normals(fresh, seed=1)) > fitted.threshold).sum()
    exceeding = round(rate * (count + 1))
    law = stats.betabinom(fresh, exceeding, count + 1 - exceeding)
    # both tails of 1e-4, as the seeds are fixed; three times the rate is outside where n is large
    assert law.ppf(1e-4) <= alarms <= law.ppf(1 - 1e-4)


def test_mean_false_positive_rate_keeps_the_promise():
    """Over many calibrations of few normals the mean rate is the asked one, not only below it."""
    rates = []
    for seed in range(400):
        fitted = fit(39, 0.1, seed)
        score = calibration.image_score(fitted, normals(200, seed=10_000 + seed))
        rates.append((score > fitted.threshold).mean())
    error = np.std(rates) / math.sqrt(len(rates))
    # four standard errors, and 1/4 of a normal for the constants fitted on the same images
    assert abs(np.mean(rates) - 0.1) < 4 * error + 0.25 / 40


@pytest.mark.parametrize("count", [2, 3, 10, 50, 98])
def test_too_few_normals_extrapolate_above_the_largest(count):
    fitted = fit(count, 0.01)
    score = calibration.image_score(fitted, normals(count))
    assert fitted.threshold >= score.max()
    assert not (score > fitted.threshold).any()
    assert fitted.false_positive_rate == 0.01
    assert fitted.guaranteed_false_positive_rate == 1 / (count + 1)


@pytest.mark.parametrize(
    ("law", "count", "least", "most"),
    [
        (stats.norm, 4, 0.9, 1.1),  # mean and standard deviation: exact
        *((stats.norm, count, 0.7, 1.1) for count in (5, 10, 31, 90)),
        *((stats.gamma(4), count, 1, 1.8) for count in (5, 10, 31, 90)),
        *((stats.lognorm(0.5), count, 1, 2.4) for count in (5, 10, 31, 90)),
    ],
)
def test_upper_limit_keeps_near_the_rate(law, count, least, most):
    """Mean rate over samples, in multiples of the rate asked; the docstring's numbers with room
    for the error of 4,000 samples."""
    rng = np.random.default_rng(0)
    draws = law.rvs(size=(4000, count), random_state=rng)
    rates = law.sf([calibration.upper_limit(draw, 0.01) for draw in draws]) / 0.01
    error = 4 * np.std(rates) / math.sqrt(len(rates))
    assert least - error < np.mean(rates) < most + error


def test_upper_limit_does_not_heed_how_far_below_the_low_half_lies():
    score = np.sort(np.random.default_rng(0).normal(size=30))
    lower = score - 50 * (score < np.median(score) - 1)
    assert calibration.upper_limit(lower, 0.01) == calibration.upper_limit(score, 0.01)


def test_an_image_of_another_kind_is_far_out_and_does_not_hide_defects():
    score = np.append(np.random.default_rng(0).normal(size=30), 11.0)
    assert np.flatnonzero(calibration.far_out(score)).tolist() == [30]
    fitted = fit_on(pair(score, np.zeros(31)), 0.01)
    alone = fit_on(pair(score[:30], np.zeros(30)), 0.01)
    threshold = fitted.terms[0].location + fitted.threshold * fitted.terms[0].scale
    expected = alone.terms[0].location + alone.threshold * alone.terms[0].scale
    assert threshold == pytest.approx(expected, rel=1e-12)  # rounding
    assert (fitted.left_out, fitted.guaranteed_false_positive_rate) == (1, 2 / 32)
    assert "31 normal images, 1 left out: at 95 % they promise 14 %" in promise.doubt(fitted)


def test_far_out_images_may_exceed_a_threshold_that_lets_more_exceed():
    score = np.append(np.random.default_rng(0).normal(size=398), [20.0, 21])
    fitted = fit_on(pair(score, np.zeros(400)), 0.01)  # 4 of 401 may exceed
    assert (fitted.left_out, fitted.guaranteed_false_positive_rate) == (0, 4 / 401)


@pytest.mark.parametrize("count", [2, 9, 10, 40, 300])
def test_gaussian_scores_are_rarely_far_out(count):
    rng = np.random.default_rng(0)
    found = sum(calibration.far_out(rng.normal(size=count)).any() for _ in range(500))
    assert found <= 4  # one in a thousand is asked for; five or more of 500: one in 5,000


def test_a_tenth_may_be_far_out_and_a_fifth_is_a_kind_of_its_own():
    rng = np.random.default_rng(0)
    few = np.concatenate([rng.normal(size=45), rng.normal(30, 1, size=5)])
    many = np.concatenate([rng.normal(size=40), rng.normal(30, 1, size=10)])
    assert calibration.far_out(few).sum() == 5
    assert not calibration.far_out(many).any()


@pytest.mark.parametrize("count", [3, 4])
def test_extrapolation_is_exact_for_gaussian_scores(count):
    """Mean rate over calibrations, with one term constant so that the score is Gaussian.

    The largest score is rarely above the limit at a rate this far below 1 / (n + 1), so the mean
    rate lies just under the asked one.
    """
    rng, rate, rates = np.random.default_rng(0), 0.2 / (count + 1), []
    for _ in range(2000):
        nll = rng.standard_normal(count)
        fitted = fit_on(pair(nll, np.zeros(count)), rate)
        raw_threshold = fitted.terms[0].location + fitted.threshold * fitted.terms[0].scale
        rates.append(stats.norm.sf(raw_threshold))
    error = np.std(rates) / math.sqrt(len(rates))
    assert 0.8 * rate < np.mean(rates) < rate + 4 * error  # 0.8: what the largest score costs


def test_one_normal_and_equal_normals():
    single = fit_on(pair([7.0], [1.0]), 0.01)
    assert (single.threshold, single.guaranteed_false_positive_rate) == (0.0, 0.5)
    equal = fit_on(pair(np.full(5, 7.0), np.full(5, 1.0)), 0.01)
    assert equal.threshold == 0.0
    score = calibration.image_score(equal, pair([7.0, 8], [1, 1]))
    assert (score > equal.threshold).tolist() == [False, True]


@pytest.mark.parametrize("count", [1, 5, 200])
def test_rates_of_zero_and_one(count):
    none, every = fit(count, 0), fit(count, 1)
    score = calibration.image_score(none, normals(count))
    assert not (score > none.threshold).any()
    assert math.isfinite(none.threshold)
    assert none.guaranteed_false_positive_rate == 1 / (count + 1)
    assert (score > every.threshold).all()
    assert every.guaranteed_false_positive_rate == 1


@pytest.mark.parametrize("count", [1, 2, 20, 300])
def test_threshold_falls_as_the_rate_rises(count):
    rates = [0, 1e-9, 1e-6, 1e-4, 1 / 302, 0.01, 0.05, 0.3, 0.5, 0.9, 1]
    thresholds = [fit(count, rate).threshold for rate in rates]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] > thresholds[-1]


def test_misuse_is_refused():
    values = normals(5)
    with pytest.raises(UserError, match="no normal images"):
        fit_on({name: x[:0] for name, x in values.items()}, 0.1)
    for rate in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match=r"calibration\.false_positive_rate"):
            fit_on(values, rate)
    with pytest.raises(ValueError, match=r"nll \(5,\), map_range \(4,\)"):
        fit_on(pair(values["nll"], values["map_range"][1:]), 0.1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        calibration.image_score(fit(5, 0.1), pair([np.nan], np.ones(1)))
    with pytest.raises(ValueError, match="categories"):
        calibration.test_minmax(**values, category=["a"])


def test_minmax_within_each_category():
    """By hand; the published 1e-8 in the divisor is all that parts it from 0, 1/4, 1."""
    score = calibration.test_minmax([0, 5, 100, 1, 300, 4], [1, 1, 0, 3, 8, 2], list("aabaab"))
    expected = [0, 5 / 300, 1, 1 / 300 + 2 / 7, 2, 0 + 1]
    np.testing.assert_allclose(score, expected, atol=1e-8)
    assert calibration.test_minmax([3.0], [2.0], ["only"]).tolist() == [0.0]


@pytest.mark.parametrize("steps", [2, 3, 5, 10])
@pytest.mark.parametrize("network", ["official_dit", "official_mlp"])
def test_minmax_is_the_published_fusion(golden_dir, network, steps):
    with np.load(golden_dir / network / "expected.npz", allow_pickle=False) as golden:
        nll, map_range, expected = (
            golden[f"S{steps}__{name}"] for name in ("nll", "map_range", "image_score_test_minmax")
        )
    found = calibration.test_minmax(nll, map_range, ["all"] * len(nll))
    # the terms are theirs; they add in float32, whose rounding of numbers up to 2 is 1e-7
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_heat_begins_above_normal_positions_and_is_the_same_for_all_images():
    latent_norm = np.random.default_rng(0).gamma(9, size=(40, 8, 8))
    low, full = calibration.heat_scale(latent_norm)
    assert np.mean(latent_norm > low) == pytest.approx(0.001, abs=0.5 / latent_norm.size)
    assert full - low == pytest.approx(low - np.median(latent_norm))
    assert calibration.heat_scale(np.ones((2, 3, 3)))[0] == 1.0


def test_the_promised_rate_is_kept_in_95_of_100_draws():
    """Uniform scores: the rate above a threshold is one less it."""
    rng = np.random.default_rng(0)
    for n, exceeding in ((28, 1), (99, 3)):
        thresholds = np.sort(rng.random((20_000, n)), axis=1)[:, n - exceeding]
        kept = np.mean(1 - thresholds <= promise.promised_rate(n, exceeding))
        assert abs(kept - 0.95) < 0.006  # four standard errors


def test_a_rate_that_so_few_cannot_promise_is_said():
    def doubt_of(n, rate):
        scores = {"nll": np.arange(float(n))}
        return promise.doubt(calibration.fit(scores, ["nll"], (1, 2), rate, held_out=True))

    assert "1 % cannot be promised by 31 normal images: at 95 % they promise 9.2 %" in doubt_of(
        31, 0.01
    )
    assert doubt_of(31, 0.01).endswith("on average over such sets it takes 99")
    assert doubt_of(98, 0.01).endswith("it takes 99")
    assert doubt_of(99, 0.01) == doubt_of(31, 0.1) == doubt_of(31, 0) == ""


def test_what_is_promised_is_of_the_threshold_that_is_set():
    """Not of the highest score, where more than one may lie above."""
    fitted = calibration.fit({"nll": np.arange(299.0)}, ["nll"], (1, 2), 0.01, held_out=True)
    assert promise.position(fitted) == 3
    assert promise.promise(fitted).startswith("at 95 % at most 2.1 %")


def test_where_every_image_may_lie_above_nothing_is_promised():
    every = calibration.fit({"nll": np.arange(9.0)}, ["nll"], (1, 2), 1.0, held_out=True)
    assert "at most 100 %" in promise.promise(every)


def test_what_is_left_out_costs_the_guarantee_where_it_was_normal():
    """Log-normal scores, of which some are taken for mistakes: a rate a fifth above the stated."""
    rng, n = np.random.default_rng(0), 99
    sets = [calibration.fit(
        {"nll": np.exp(rng.standard_normal(n))}, ["nll"], (1, 2), 0.01, held_out=True
    ) for _ in range(1_500)]  # fmt: skip
    limits = [one.threshold * one.terms[0].scale + one.terms[0].location for one in sets]
    rates = [math.erfc(math.log(limit) / math.sqrt(2)) / 2 for limit in limits]
    stated = np.mean([one.guaranteed_false_positive_rate for one in sets])
    assert 1.0 < np.mean(rates) / stated < 1.3
