"""The fitted mixture against SciPy, and what makes it worth having."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import threadpoolctl
from scipy import special, stats

from invad_jax import scoring
from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.errors import UserError
from invad_jax.inference.arrays import reference_to_device
from invad_jax.normality import gaussian, mixture, reference
from invad_jax.normality.mixture import Component
from invad_jax.normality.reference import Learnt, check_enough
from invad_jax.paradigms import paradigm_of
from tests.tracing import traced

score = jax.jit(scoring.score, static_argnums=1)
score_under = jax.jit(scoring.score_under, static_argnums=2)
STATES, GRID, CHANNELS = 2, (2, 3), 4
NEAREST = override(Config(), ["inversion.paradigm=nearest_neighbour"])


def images(rng, count, kind=0):
    """(N, M, h, w, C) whose states and positions each have a mean and a covariance of their own."""
    shape = (STATES, *GRID, CHANNELS)
    fixed = np.random.default_rng(7 + kind)
    mixing = np.eye(CHANNELS) + 0.3 * fixed.standard_normal((*shape, CHANNELS))
    mean = fixed.standard_normal(shape) * 3
    z = rng.standard_normal((count, *shape))
    return mean + np.einsum("mhwij,nmhwj->nmhwi", mixing, z)


def component(name, x, batches=3):
    return Component(name, iter(np.array_split(x.astype(np.float32), batches)))


def scores_of(fitted, x):
    return score_under(reference_to_device(Learnt(fitted)), jnp.asarray(x, jnp.float32), 6)


@pytest.fixture(scope="module")
def normal():
    rng = np.random.default_rng(0)
    return images(rng, 900, kind=0), images(rng, 300, kind=1)


@pytest.fixture(scope="module")
def fitted(normal):
    return mixture.fit([component("nut", normal[0]), component("pin", normal[1])])


def test_nll_is_scipys_under_the_shrunk_covariances(fitted, normal):
    x = np.concatenate([images(np.random.default_rng(1), 4, kind) for kind in (0, 1)])
    joint = np.log(np.array([[0.75], [0.25]])) + np.zeros((2, 8))
    for k, m in np.ndindex(2, STATES):
        cells = list(np.ndindex(GRID))
        moments = [normal[k][:, m, i, j] for i, j in cells]
        covariances = [np.cov(of, rowvar=False, bias=True) for of in moments]
        variance = np.mean([np.trace(S) / CHANNELS for S in covariances])
        a = fitted.shrinkage[k, m]
        for (i, j), of, S in zip(cells, moments, covariances, strict=True):
            shrunk = (1 - a) * S + a * variance * np.eye(CHANNELS)
            law = stats.multivariate_normal(of.mean(axis=0), shrunk)
            joint[k] += law.logpdf(x[:, m, i, j])
    scores = scores_of(fitted, x)
    # float32 products of well-conditioned matrices; a floor of 1e-6 of the variance.
    np.testing.assert_allclose(scores.nll, -special.logsumexp(joint, axis=0), rtol=1e-4)
    assert scores.component.tolist() == joint.argmax(axis=0).tolist() == [0] * 4 + [1] * 4


def test_images_are_recognised_and_components_weigh_what_they_stand_for(fitted):
    np.testing.assert_allclose(np.exp(fitted.log_weight), [0.75, 0.25], rtol=1e-6)  # float32
    assert Learnt(fitted).component_names == ("nut", "pin")
    for kind in (0, 1):
        found = scores_of(fitted, images(np.random.default_rng(2), 50, kind)).component
        assert found.tolist() == [kind] * 50


def test_normals_are_as_far_as_a_chi_square_says(fitted):
    """Over both states and fresh images: 8 degrees of freedom at each position."""
    scores = scores_of(fitted, images(np.random.default_rng(3), 2000, kind=0))
    square = np.asarray(scores.latent_norm, np.float64) ** 2
    # Shrunk a little, and fitted on 900 images: C / 900 each for mean and covariance; 3 % in all.
    np.testing.assert_allclose(square.mean(), STATES * CHANNELS, rtol=0.03)


def test_how_images_are_batched_does_not_matter(normal):
    x = normal[0][:20]
    together, apart = (mixture.fit([component("nut", x, batches)]) for batches in (1, 20))
    for field in dataclasses.fields(together):
        if field.name != "name":  # sums in another order, in float64, stored as float32
            np.testing.assert_allclose(
                getattr(together, field.name), getattr(apart, field.name), rtol=1e-5, atol=1e-5
            )


def test_a_constant_channel_and_fewer_images_than_channels_are_no_obstacle(normal):
    x = normal[0][:3].copy()
    x[..., 0] = 1.5
    fitted = mixture.fit([component("nut", x)])
    assert np.isfinite(fitted.projection).all()
    assert np.isfinite(scores_of(fitted, x).nll).all()


def test_an_anomaly_along_a_narrow_direction_is_found_only_by_the_fitted_prior(fitted, normal):
    """A step that N(0, I) cannot see: small in length, large in standard deviations."""
    x = images(np.random.default_rng(4), 200)
    _, vectors = np.linalg.eigh(np.cov(normal[0][:, -1, 0, 0], rowvar=False))
    anomalous = x.copy()
    anomalous[:, -1, 0, 0] += 1.2 * vectors[:, 0]  # the direction of least variance

    def auroc(norm):
        a, b = (np.asarray(norm(jnp.asarray(v, jnp.float32)))[:, 0, 0] for v in (x, anomalous))
        return np.mean(b[:, None] > a[None, :])

    ours = auroc(lambda v: scores_of(fitted, v).latent_norm)
    assert ours > auroc(lambda v: score(v[:, -1], 6).latent_norm) + 0.1


def test_above_so_many_channels_it_is_low_rank(monkeypatch, normal, tmp_path):
    monkeypatch.setattr(gaussian, "MAX_DENSE_CHANNELS", 3)
    monkeypatch.setattr(gaussian, "RANK", 2)
    low = mixture.fit([component("nut", normal[0]), component("pin", normal[1])])
    assert low.projection.shape == (2, STATES, *GRID, 2, CHANNELS)
    assert low.inv_std.shape == (2, STATES, *GRID, CHANNELS)
    x = images(np.random.default_rng(5), 20, kind=1)
    assert scores_of(low, x).component.tolist() == [1] * 20
    precision = np.einsum("...c,cd->...cd", low.inv_std.astype(np.float64) ** 2, np.eye(CHANNELS))
    precision -= np.einsum("...rc,...rd->...cd", low.projection, low.projection, dtype=np.float64)
    expected = np.zeros((20, *GRID))
    for n, m, i, j in np.ndindex(20, STATES, *GRID):
        d = x[n, m, i, j] - low.mean[1, m, i, j]
        expected[n, i, j] += d @ precision[1, m, i, j] @ d
    norm = scores_of(low, x).latent_norm
    np.testing.assert_allclose(norm, np.sqrt(expected), rtol=1e-3)  # a difference in float32
    assert np.asarray(low.log_det) == pytest.approx(
        -np.linalg.slogdet(precision)[1].sum(axis=1), rel=1e-4
    )  # factors stored as float32
    reference.write(tmp_path, Learnt(low))
    again = reference_to_device(reference.read(tmp_path, paradigm_of(Config()).lessons)).prior
    np.testing.assert_array_equal(again.inv_std, low.inv_std)


@pytest.mark.parametrize("config", [Config(), NEAREST])
def test_round_trip(normal, tmp_path, config):
    kinds = [component("nut", normal[0][:90]), component("pin", normal[1][:50])]
    paradigm = paradigm_of(config)
    learnt = reference.learn(paradigm.lessons, kinds)
    assert (learnt.prior is None) == (learnt.memory is not None) == (config is NEAREST)
    assert learnt.component_names == ("nut", "pin")
    reference.write(tmp_path, learnt)
    again = reference.read(tmp_path, paradigm.lessons)
    jax.tree.map(
        np.testing.assert_array_equal, reference_to_device(again), reference_to_device(learnt)
    )
    assert again.component_names == ("nut", "pin")
    assert [path.name for path in tmp_path.iterdir()] == ["reference.npz"]
    of_pin = jnp.asarray(normal[1][60:70], jnp.float32)
    scores = paradigm.compare(reference_to_device(again), of_pin, 6)
    assert scores.component.tolist() == [1] * 10


@pytest.mark.parametrize("kind", ["empty", "not a zip", "cut"])
def test_a_damaged_file_is_one_line(fitted, tmp_path, kind):
    reference.write(tmp_path, Learnt(fitted))
    path = tmp_path / "reference.npz"
    whole = path.read_bytes()
    content = {"empty": b"", "not a zip": b"PK\x03\x04 not", "cut": whole[: len(whole) // 2]}
    path.write_bytes(content[kind])
    with pytest.raises(UserError, match=r"reference\.npz: cannot be read") as caught:
        reference.read(tmp_path, paradigm_of(Config()).lessons)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [Config(), NEAREST])
def test_an_absent_or_foreign_file_is_one_line(tmp_path, config):
    with pytest.raises(UserError, match=r"reference\.npz: cannot be read"):
        reference.read(tmp_path, paradigm_of(config).lessons)
    foreign = ({"memory.vector": np.ones((2, 3))}, {"prior.mean": np.array([object()])})
    for arrays in foreign:  # of another kind, or not whole; a pickle
        np.savez(tmp_path / "reference.npz", **arrays)
        with pytest.raises(UserError, match=r"reference\.npz: cannot be read"):
            reference.read(tmp_path, paradigm_of(config).lessons)


def test_one_image_is_not_enough():
    with pytest.raises(UserError, match=r"'nut' has 1 normal image .* needs two"):
        mixture.fit([Component("nut", [np.zeros((1, 1, 1, 1, 2), np.float32)])])


@pytest.mark.parametrize(("kinds", "states"), [(1, 1), (3, 2)])
def test_memory_is_what_the_docstring_says(kinds, states):
    """24 M h w C^2 bytes for the component at hand, and twice the result."""
    h, w, C = 4, 4, 64
    rng = np.random.default_rng(0)
    batch = rng.standard_normal((2, states, h, w, C)).astype(np.float32)
    components = [Component(str(k), [batch, batch]) for k in range(kinds)]
    mixture.fit(components)  # what is found once: the libraries of linear algebra
    with traced() as memory:
        fitted = mixture.fit(components)
        peak = memory.peak
    at_hand, result = 24 * states * h * w * C**2, fitted.projection.nbytes
    assert result == 4 * kinds * states * h * w * C**2
    # Three copies of a batch in float64, and 50 kB of names and small arrays.
    assert peak < at_hand + 2 * result + 3 * 2 * batch.nbytes + 50_000
    assert peak > result


def test_what_the_process_has_mapped_is_read_once(monkeypatch):
    """It grows with every program that was compiled; a fit asks at each batch."""
    batch = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 2)).astype(np.float32)
    components = [Component("nut", [batch, batch])]
    expected = mixture.fit(components)
    monkeypatch.setattr(threadpoolctl.ThreadpoolController, "_load_libraries", pytest.fail)
    np.testing.assert_array_equal(mixture.fit(components).projection, expected.projection)


def test_a_kind_with_one_image_is_refused_before_training():
    categories = ["bolt", "nut", "nut", "nut", "nut"]

    def check(*options, of=categories):
        check_enough(paradigm_of(override(Config(), list(options))).lessons, of)

    with pytest.raises(UserError, match="'bolt' has 1 normal image"):
        check()
    for change in ("scoring.components=one", "scoring.prior=standard_normal"):
        check(change)
    check(of=categories[1:])
    check("inversion.paradigm=nearest_neighbour")
    with pytest.raises(UserError, match=r"1 normal image.* two is needed"):
        check("inversion.paradigm=nearest_neighbour", of=categories[:1])
