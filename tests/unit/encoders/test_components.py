"""Principal components against scikit-learn's, and means of groups of stages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

from invad_jax.config import EncoderConfig
from invad_jax.encoders import build_encoder, components, describe_encoder, with_components
from invad_jax.encoders.feature_stack import stack_features
from invad_jax.errors import UserError

C, KEPT = 6, 2


def latents(count):
    """(N, 3, 2, C) float32 with a mean far from 0, and variances that differ."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((C, C)) * np.array([5, 3, 1, 0.5, 0.3, 0.1])[:, None]
    return (100 + rng.standard_normal((count, 3, 2, C)) @ mixing).astype(np.float32)


def moments_of(x, batch_size):
    """In batches, the last of which is filled up with images of other values."""
    total = None
    for start in range(0, len(x), batch_size):
        rows = x[start : start + batch_size]
        known = np.arange(batch_size) < len(rows)
        filled = np.concatenate([rows, np.full((batch_size - len(rows), 3, 2, C), 7e3, np.float32)])
        total = components.merged(total, components.moments(jnp.asarray(filled), known))
    return total


def test_moments_are_those_of_all_vectors_however_they_come():
    x = latents(11)
    vectors = x.reshape(-1, C).astype(np.float64)
    for batch_size in (4, 11):
        found = moments_of(x, batch_size)
        assert found.count == len(vectors)
        np.testing.assert_allclose(found.mean, vectors.mean(axis=0), rtol=1e-6)  # float32
        expected = np.cov(vectors, rowvar=False, bias=True) * len(vectors)
        # A batch is centred in float32: of 100, 1e-5 is lost, beside a spread of 1 to 10.
        np.testing.assert_allclose(found.scatter, expected, rtol=1e-4, atol=1e-2)


def test_components_are_scikit_learns():
    x = latents(40)
    oracle = PCA(KEPT).fit(x.reshape(-1, C).astype(np.float64))
    found, share = components.principal(moments_of(x, 16), KEPT)
    signs = np.sign(np.sum(found.basis * oracle.components_.T, axis=0))
    np.testing.assert_allclose(found.basis * signs[None], oracle.components_.T, atol=1e-5)
    assert share == pytest.approx(oracle.explained_variance_ratio_.sum(), abs=1e-6)
    largest = np.abs(found.basis).argmax(axis=0)
    assert all(found.basis[largest, range(KEPT)] > 0)
    projected = np.asarray(components.project(found, jnp.asarray(x))).reshape(-1, KEPT)
    expected = oracle.transform(x.reshape(-1, C).astype(np.float64))
    # Numbers of 100 are centred in float32: 1e-5 each is lost.
    np.testing.assert_allclose(projected * signs[None], expected, atol=1e-4)


def test_too_few_vectors_are_refused():
    with pytest.raises(UserError, match=r"encoder\.channels=2: 6 positions .* 6 channels each"):
        components.principal(moments_of(latents(1), 1), KEPT)


def test_they_are_kept(tmp_path):
    found, _ = components.principal(moments_of(latents(9), 9), KEPT)
    path = tmp_path / "components.npz"
    components.write(path, found, {"channels": KEPT})
    again, key = components.read(path)
    assert key == {"channels": KEPT}
    np.testing.assert_array_equal(again.mean, found.mean)
    np.testing.assert_array_equal(again.basis, found.basis)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"components\.npz: cannot be read"):
        components.read(path)


RANDOM = EncoderConfig("efficientnet_b0", "random", stages=(3, 4))


def test_an_encoder_of_components_is_the_whole_one_projected():
    whole = build_encoder(RANDOM, 32)
    channels = whole.latent_shape[-1]
    rng = np.random.default_rng(1)
    mean, basis = rng.standard_normal(channels), rng.standard_normal((channels, 3))
    found = components.Components(mean.astype(np.float32), basis.astype(np.float32))
    encoder = with_components(whole, found)
    image = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    latent = jax.jit(encoder.apply)(encoder.variables, image)
    assert latent.shape[1:] == encoder.latent_shape == (*whole.latent_shape[:2], 3)
    before = np.asarray(jax.jit(whole.apply)(whole.variables, image), np.float64)
    np.testing.assert_allclose(latent, (before - mean) @ basis, rtol=1e-3, atol=1e-3)  # float32
    moved = with_components(whole, found._replace(mean=found.mean + 1))
    assert len({whole.fingerprint, encoder.fingerprint, moved.fingerprint}) == 3


def test_a_description_has_the_channels_and_no_more_than_there_are():
    _, described = describe_encoder(dataclasses.replace(RANDOM, channels=5), 32)
    assert described.latent_shape[-1] == 5
    with pytest.raises(UserError, match=r"encoder\.channels=81: the features have 80"):
        describe_encoder(dataclasses.replace(RANDOM, channels=81), 32)


def test_groups_of_stages_are_averaged_on_the_grid_of_the_last():
    rng = np.random.default_rng(2)
    stages = [rng.standard_normal((1, n, n, 3)).astype(np.float32) for n in (4, 4, 2, 2)]
    found = stack_features(stages, "area", 1, groups=2)
    pooled = [x.reshape(1, 2, 2, 2, 2, 3).mean(axis=(2, 4)) for x in stages[:2]]
    expected = [sum(pooled) / 2, (stages[2] + stages[3]) / 2]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=-1), atol=1e-6)  # float32


@pytest.mark.parametrize(
    ("widths", "groups", "message"),
    [((3, 3, 3), 2, "must divide the 3 stages"), ((3, 4), 1, "of one width; theirs: 3, 4")],
)
def test_groups_that_do_not_fit(widths, groups, message):
    with pytest.raises(UserError, match=f"encoder.groups={groups}: .*{message}"):
        stack_features([jnp.zeros((1, 2, 2, c)) for c in widths], "area", 1, groups)


def test_groups_change_latent_and_fingerprint():
    whole, mean = (build_encoder(dataclasses.replace(RANDOM, groups=g), 32) for g in (0, 1))
    assert (whole.latent_shape[-1], mean.latent_shape[-1]) == (80, 40)
    assert whole.fingerprint != mean.fingerprint
