"""The vectors that are kept of normal images: which, in what units, and in how much memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from invad_jax.errors import UserError
from invad_jax.normality import memory_bank
from invad_jax.normality.memory_bank import Collector, k_centre
from tests.tracing import traced


def images(count, seed=0, shape=(2, 3, 4)):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def fit(*kinds, batch=5):
    collector = Collector()
    for name, x in kinds:
        parts = (x[i : i + batch] for i in range(0, len(x), batch))
        both = (np.stack([part, part + 1], axis=1) for part in parts)  # x0, and another state
        passed = np.concatenate(list(collector.watch(name, both)))
        np.testing.assert_array_equal(passed[:, 0], x)
    return collector.fit()


@given(seed=st.integers(0, 50), count=st.integers(1, 12))
def test_k_centre_is_within_twice_the_best(seed, count):
    """Brute force: each chosen point is the farthest from those before; the bound follows."""
    points = np.random.default_rng(seed).standard_normal((12, 3)).astype(np.float32)
    chosen = k_centre(points, count)
    assert len(set(chosen)) == count
    assert list(chosen) == sorted(chosen)
    distance = cdist(points.astype(np.float64), points.astype(np.float64))
    kept = [int(np.argmax(np.linalg.norm(points - points.mean(axis=0), axis=1)))]
    while len(kept) < count:
        kept.append(int(np.argmax(distance[:, kept].min(axis=1))))
    assert sorted(kept) == list(chosen)


def test_what_is_alike_is_kept_once():
    """Nine tenths lie at one place: a random choice would fill the memory with it."""
    points = np.concatenate([np.zeros((90, 2)), np.random.default_rng(0).uniform(5, 9, (10, 2))])
    assert sum(k_centre(points.astype(np.float32), 11) < 90) == 1


def test_a_small_set_is_kept_whole_and_its_variance_is_of_other_images():
    x = images(20)
    fitted = fit(("nut", x))
    flat = x.reshape(-1, 4)
    np.testing.assert_array_equal(fitted.vector, flat)
    distance = cdist(flat.astype(np.float64), flat.astype(np.float64))
    image = np.repeat(np.arange(20), 6)
    distance[image[:, None] == image] = np.inf
    variance = np.mean(distance.min(axis=1) ** 2) / 4
    assert fitted.inv_std == pytest.approx(variance**-0.5, rel=1e-5)  # kept as float32


def test_the_share(monkeypatch):
    monkeypatch.setattr(memory_bank, "AT_LEAST", 10)
    fitted = fit(("nut", images(50)), ("pin", images(30, seed=1) + 20))
    assert len(fitted.vector) == 80 * 6 // 20
    assert fitted.name.tolist() == ["nut", "pin"]
    first = fitted.vector[:, 0] > 10
    np.testing.assert_array_equal(fitted.kind, first.astype(int))
    assert 0 < first.sum() < len(first)


def test_batches_and_repetitions_change_nothing(monkeypatch):
    monkeypatch.setattr(memory_bank, "POOL", 100)
    monkeypatch.setattr(memory_bank, "AT_LEAST", 40)
    a, b = (fit(("nut", images(50)), ("pin", images(9, seed=1)), batch=size) for size in (3, 50))
    assert len(a.vector) == 40
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_is_what_the_docstring_says(monkeypatch):
    monkeypatch.setattr(memory_bank, "POOL", 2_000)
    shape = (16, 16, 64)
    with traced() as memory:
        collector = Collector()
        for _ in collector.watch("nut", (images(4, i, shape)[:, None] for i in range(20))):
            pass
        peak = memory.peak
    batch, pool = 4 * 16 * 16 * 64 * 4, 2_000 * 64 * 4
    assert peak < 4 * batch + 3 * pool  # copies of a batch on the way; keys and numbers of images
    assert peak < 0.5 * 20 * batch  # and far below all of them


def test_images_that_are_alike_have_a_variance():
    fitted = fit(("nut", np.repeat(images(1), 4, axis=0)))
    assert fitted.inv_std == pytest.approx(memory_bank.MIN_VARIANCE**-0.5)


def test_where_only_one_image_is_kept_and_asked_the_variance_is_the_least(monkeypatch):
    for name, value in (("SHARE", 0.0), ("AT_LEAST", 1), ("QUERIES", 1)):
        monkeypatch.setattr(memory_bank, name, value)
    found = []
    for far in (0, 1):  # the one vector that is kept is of this image, the one asked of either
        x = images(2)
        x[far] *= 100
        found.append(fit(("nut", x)).inv_std == pytest.approx(memory_bank.MIN_VARIANCE**-0.5))
    assert sorted(found) == [False, True]


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_is_not_enough(count):
    collector = Collector()
    assert len(list(collector.watch("nut", iter(images(count)[:, None, None])))) == count
    with pytest.raises(UserError, match=rf"{count} normal image.* two is needed"):
        collector.fit()
