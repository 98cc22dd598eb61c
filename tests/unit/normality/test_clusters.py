"""Kinds of product without their labels."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from invad_jax.normality import clusters


def kinds(sizes, apart, channels=6, seed=0):
    """(descriptors, labels), shuffled: kinds whose channels lie `apart` standard deviations."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = apart * rng.standard_normal((len(sizes), channels))
    return centres[labels] + rng.standard_normal((len(labels), channels)), labels


@pytest.mark.parametrize("sizes", [[40, 40], [12, 60, 25], [15] * 6])
def test_separated_kinds_are_found(sizes):
    descriptor, labels = kinds(sizes, apart=8)
    found = clusters.find(descriptor)
    assert adjusted_rand_score(labels, found) == 1.0


def test_units_of_channels_do_not_matter():
    descriptor, labels = kinds([30, 30], apart=6)
    scaled = descriptor * np.array([1e4, 1, 1, 1, 1, 1e-3])
    scaled[:, 0] += 7
    assert adjusted_rand_score(labels, clusters.find(scaled)) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_one_kind_stays_one(seed):
    descriptor, _ = kinds([80], apart=0, seed=seed)
    assert not clusters.find(descriptor).any()


def test_fewer_than_a_handful_are_never_a_cluster():
    descriptor, labels = kinds([60, clusters.FEWEST_IMAGES - 1], apart=10)
    assert len(np.unique(clusters.find(descriptor))) == 1
    descriptor, labels = kinds([60, clusters.FEWEST_IMAGES], apart=10)
    assert adjusted_rand_score(labels, clusters.find(descriptor)) == 1.0


@pytest.mark.parametrize("count", [1, 5, 40])
def test_few_or_equal_images_are_one_cluster(count):
    assert clusters.find(np.ones((count, 3))).tolist() == [0] * count


def test_copies_are_clusters_of_their_own():
    """Fewer distinct images than clusters that would be tried."""
    labels = np.repeat(np.arange(3), 20)
    assert adjusted_rand_score(labels, clusters.find(np.eye(3)[labels])) == 1.0


def test_the_same_every_time():
    descriptor, _ = kinds([30, 30, 30], apart=2)
    np.testing.assert_array_equal(clusters.find(descriptor), clusters.find(descriptor))


def test_a_descriptor_is_the_mean_over_positions():
    latents = np.random.default_rng(0).standard_normal((4, 2, 3, 5)).astype(np.float32)
    expected = [image.astype(np.float64).reshape(6, 5).mean(axis=0) for image in latents]
    np.testing.assert_allclose(clusters.describe(latents), expected, rtol=1e-12)  # float64
