"""What has moved between good images, and what has not: made-up images of which that is known."""

import numpy as np
import pytest

from invad_jax.errors import UnavailableError, UserError
from invad_jax.normality import calibration, drift, promise
from invad_jax.normality.calibration import Calibration
from invad_jax.normality.drift import Group, Profile

CALIBRATED = Calibration(
    terms=(), threshold=2.0, false_positive_rate=0.1, guaranteed_false_positive_rate=3 / 31,
    num_normals=30, left_out=0, heat=(0.0, 1.0), held_out=True,
)  # fmt: skip
"""Of `images(0)`."""


def images(seed, count=30, shift=0.0, contrast=1.0, hot=None):
    """Scores and a profile of `count` images with 6 channels on a 6 x 9 grid."""
    rng = np.random.default_rng(seed)
    latent_norm = 5 + rng.normal(size=(count, 6, 9))
    if hot:
        latent_norm[:, *hot] += 4
    profile = Profile(
        rng.normal(size=(count, 6)) + shift, contrast * (1 + 0.05 * rng.normal(size=count)),
        latent_norm,
    )  # fmt: skip
    return Group(rng.normal(size=count) + shift, profile)


def moved(stored, new):
    findings = drift.compare(stored, new, CALIBRATED)
    return [finding.text.partition(":")[0] for finding in findings if finding.moved]


@pytest.mark.parametrize("seed", range(6))
def test_images_of_the_same_kind_have_not_moved(seed):
    # Five tests at two in a thousand each; the seeds stay what they are.
    assert moved(images(seed), images(100 + seed)) == []


def test_each_change_is_named_and_no_other():
    stored = images(0)
    assert moved(stored, images(1, contrast=1.3)) == ["contrast of features"]
    assert moved(stored, images(1, hot=(5, 0))) == ["where"]
    assert set(moved(stored, images(1, shift=2.0))) == {"scores", "false alarms", "features"}


def test_a_grid_of_one_position_has_no_contrast_that_could_move():
    assert moved(images(0, contrast=0.0), images(1, contrast=0.0)) == []


def test_the_words_say_where_and_how():
    lines = {
        finding.text.partition(":")[0]: finding.text
        for finding in drift.compare(images(0), images(1, shift=2.0, hot=(5, 0)), CALIBRATED)
    }
    assert "have moved, higher" in lines["scores"]
    assert "higher at the bottom left: most at row 6, column 1 of 6 x 9" in lines["where"]
    assert "more than before" in lines["false alarms"]
    assert "10 % was asked" in lines["false alarms"]


@pytest.mark.parametrize(("known", "count"), [(30, 4), (6, 6), (5, 7)])
def test_few_images_say_nothing(known, count):
    (finding,) = drift.compare(images(0, known), images(1, count, shift=9.0), CALIBRATED)
    assert "it takes 5 of each, and 13 in all" in finding.text
    assert not finding.moved


@pytest.mark.parametrize(("known", "count"), [(10, 10), (6, 7), (5, 8), (22, 5)])
def test_a_few_that_are_all_different_have_moved(known, count):
    """Of chance no more is left than that a deal is the one that was made, or its contrary."""
    assert {"scores", "features"} <= set(moved(images(0, known), images(1, count, shift=99.0)))


@pytest.mark.parametrize(
    ("n", "rate", "count"), [(99, 0.01, 1000), (28, 0.05, 300), (31, 0.01, 300)]
)
def test_what_a_threshold_of_few_lets_happen_has_not_moved(n, rate, count):
    """Its own rate is by chance; uniform scores, of which it is one less the threshold."""
    rng, draws = np.random.default_rng(0), 20_000
    fitted = calibration.fit({"nll": np.arange(float(n))}, ["nll"], (1, 2), rate, held_out=True)
    j = promise.position(fitted)
    threshold = np.sort(rng.random((draws, n)), axis=1)[:, n - j]
    alarms = rng.binomial(count, 1 - threshold)
    chance = np.array([drift.chance_of_alarms(k, count, fitted) for k in range(count + 1)])
    assert chance[0] == pytest.approx(1)
    moved = np.mean(chance[alarms] < drift.CHANCE)
    assert moved <= drift.CHANCE + 4 * np.sqrt(drift.CHANCE / draws)  # four standard errors
    assert chance[-1] < drift.CHANCE


def test_without_a_profile_the_scores_are_compared():
    stored = images(0)._replace(profile=None)
    assert moved(stored, images(1, shift=2.0)) == ["scores", "false alarms"]


def test_the_interval_of_a_rate_is_the_exact_one():
    # 0 of n: 1 - 0.025^(1/n); n of n: 0.025^(1/n).
    assert drift.alarm_interval(0, 20) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    assert drift.alarm_interval(20, 20) == pytest.approx((0.025 ** (1 / 20), 1.0))


def test_a_profile_is_read_back(tmp_path):
    latent = np.random.default_rng(0).normal(size=(3, 2, 2, 4)).astype(np.float32)
    profile = drift.profile_of(latent, np.ones((3, 2, 2), np.float32))
    expected = latent.mean(axis=(1, 2), dtype=np.float64)  # and rounded to float32
    np.testing.assert_allclose(profile.feature, expected, rtol=1e-7)
    drift.write(tmp_path / "p.npz", profile)
    for ours, theirs in zip(drift.read(tmp_path / "p.npz"), profile, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert drift.read(tmp_path / "q.npz") is None
    (tmp_path / "p.npz").write_bytes(b"no")
    with pytest.raises(UserError, match=r"p\.npz: cannot be read; delete it"):
        drift.read(tmp_path / "p.npz")


def test_a_store_that_is_away_is_no_damage(tmp_path, monkeypatch):
    (tmp_path / "p.npz").write_bytes(b"")

    def away(*_, **__):
        raise UnavailableError("gs://b/p.npz: does not answer")

    monkeypatch.setattr(type(tmp_path), "open", away)
    with pytest.raises(UnavailableError):
        drift.read(tmp_path / "p.npz")
