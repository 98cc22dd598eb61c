"""The local mean and the whitening, against loops over vectors and SciPy's Mahalanobis distance."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from invad_jax import coordinates
from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.coordinates import Coordinates, ImageBank, Neighbourhood, describe
from invad_jax.diffusion.parameterization import to_eps
from invad_jax.inference.arrays import bank_to_device, gaussians_to_device
from invad_jax.normality import gaussian, whitening
from invad_jax.normality.image_bank import bank_of
from invad_jax.paradigms import paradigm_of
from invad_jax.paradigms.levels import alpha_bar_of

local_mean, local_distance, whiten = (
    jax.jit(function, static_argnums=1)
    for function in (coordinates.local_mean, coordinates.local_distance, coordinates.whiten)
)
N, H, W, C, B = 7, 4, 5, 6, 3
RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal((N, H, W, C)).astype(np.float32)
X0 = RNG.standard_normal((B, H, W, C)).astype(np.float32)
VARIANCE = 2.0
KIND = jnp.arange(N) % 2
BANK = ImageBank(
    jnp.asarray(np.moveaxis(NORMAL, 0, 2)),
    describe(jnp.asarray(NORMAL)),
    KIND,
    jnp.stack([jnp.full((H, W), 1e3), jnp.full((H, W), VARIANCE)]),
)


def by_loops(x, where, itself=-1):
    """Weighted mean and least squared distance at every position, float64."""

    def direction(images):
        mean = images.mean(axis=(-3, -2))
        return mean / np.linalg.norm(mean, axis=-1, keepdims=True)

    similarity = direction(NORMAL.astype(np.float64)) @ direction(x.astype(np.float64))
    similar = [n for n in np.argsort(-similarity) if n != itself][: where.images]
    mean, least = np.empty((H, W, C)), np.empty((H, W))
    for i, j in np.ndindex(H, W):
        rows = slice(max(0, i - where.radius), i + where.radius + 1)
        columns = slice(max(0, j - where.radius), j + where.radius + 1)
        vectors = NORMAL[similar, rows, columns].reshape(-1, C).astype(np.float64)
        square = np.sum((vectors - x[i, j]) ** 2, axis=1)
        weight = np.exp(-(square - square.min()) / (2 * VARIANCE))
        mean[i, j], least[i, j] = weight @ vectors / weight.sum(), square.min()
    return mean, least


@pytest.mark.parametrize("itself", [None, (2, -1, 5)])
@pytest.mark.parametrize(("radius", "images"), [(0, 1), (1, 7), (2, 3), (5, 99)])
def test_local_mean_and_distance(radius, images, itself):
    where = Neighbourhood(radius, images)
    excluded = None if itself is None else jnp.array(itself)
    # Not compiled as a whole: the operations are those of the other cases.
    mean = coordinates.local_mean(BANK, where, jnp.asarray(X0), jnp.ones(B, jnp.int32), excluded)
    square = coordinates.local_distance(BANK, where, jnp.asarray(X0), excluded)
    for b in range(B):
        expected = by_loops(X0[b], where, -1 if itself is None else itself[b])
        np.testing.assert_allclose(mean[b], expected[0], atol=1e-5)  # float32
        np.testing.assert_allclose(square[b], expected[1], atol=1e-4)  # |a|^2 - 2 a b + |b|^2


def test_an_image_of_the_bank_is_its_own_nearest_unless_it_is_left_out():
    where, itself = Neighbourhood(1, N), jnp.arange(N)
    assert float(jnp.max(local_distance(BANK, where, jnp.asarray(NORMAL)))) < 1e-5
    assert float(jnp.min(local_distance(BANK, where, jnp.asarray(NORMAL), itself))) > 0.1


def test_with_a_bank_the_nearest_image_tells_the_kind_and_its_mean_goes():
    gaussians = gaussians_to_device(
        whitening.fit(NORMAL, [str(int(k)) for k in KIND], identity=1.0, centred=False)
    )
    where = Neighbourhood(1, N)
    u, component = whiten(Coordinates(gaussians, BANK), where, jnp.asarray(NORMAL) + 0.01)
    assert component.tolist() == KIND.tolist()
    for n in range(N):
        x0 = NORMAL[n] + np.float32(0.01)
        rest = x0 - local_mean(BANK, where, jnp.asarray(x0[None]), KIND[n][None])[0]
        expected = np.einsum("hwrc,hwc->hwr", gaussians.projection[int(KIND[n]), 0], rest)
        np.testing.assert_allclose(u[n], expected, rtol=1e-4, atol=1e-5)  # float32


def kinds(count=40, channels=C):
    rng = np.random.default_rng(3)
    mixing = np.eye(channels) + 0.4 * rng.standard_normal((2, 1, channels, channels))
    shift = np.array([0.0, 4.0])[:, None, None, None, None]
    noise = rng.standard_normal((2, count, 2, 3, channels))
    return (noise @ mixing[:, None] + shift).astype(np.float32)


def test_without_a_bank_the_length_is_the_mahalanobis_distance_of_the_right_kind():
    nuts, pins = kinds()
    fitted = whitening.fit(
        np.concatenate([nuts, pins]), ["nut"] * 40 + ["pin"] * 40, identity=0.5, centred=True
    )
    test = kinds(5)[:, :, :, :]
    fitted = Coordinates(gaussians_to_device(fitted))
    for k, (normal, new) in enumerate(zip((nuts, pins), test, strict=True)):
        u, component = whiten(fitted, Neighbourhood(0, 1), jnp.asarray(new))
        assert component.tolist() == [k] * 5
        covariance = np.stack([np.cov(normal[:, i, j], rowvar=False) for i, j in np.ndindex(2, 3)])
        variance = np.mean(np.trace(covariance, axis1=1, axis2=2) / C)
        for (i, j), S in zip(np.ndindex(2, 3), covariance, strict=True):
            inverse = np.linalg.inv(S + 0.5 * variance * np.eye(C))
            mean = normal[:, i, j].mean(axis=0)
            expected = [mahalanobis(row, mean, inverse) for row in new[:, i, j]]
            # float32 products of well-conditioned matrices
            np.testing.assert_allclose(np.linalg.norm(u[:, i, j], axis=-1), expected, rtol=1e-4)


def test_wide_latents_are_whitened_by_a_low_rank(monkeypatch):
    """Of three large directions and a floor: exact, and no matrix of C x C is kept."""
    rng = np.random.default_rng(5)
    loading = rng.standard_normal((3, 12))
    normal = rng.standard_normal((4000, 1, 1, 3)) @ loading + 0.5 * rng.standard_normal(
        (4000, 1, 1, 12)
    )
    normal = normal.astype(np.float32)
    dense = whitening.fit(normal, ["a"] * 4000, identity=0.0, centred=True)
    monkeypatch.setattr(gaussian, "MAX_DENSE_CHANNELS", 8)
    monkeypatch.setattr(gaussian, "RANK", 3)
    low = whitening.fit(normal, ["a"] * 4000, identity=0.0, centred=True)
    assert low.projection.shape[-2:] == (3, 12)
    new = jnp.asarray(normal[:50] + 1)
    where = Neighbourhood(0, 1)
    a, b = (whiten(Coordinates(gaussians_to_device(f)), where, new)[0] for f in (dense, low))
    # 4000 images tell the floor of each direction to 1 / sqrt(2000).
    np.testing.assert_allclose(np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1), rtol=0.05)
    u = whiten(Coordinates(gaussians_to_device(low)), where, jnp.asarray(normal))[0]
    covariance = np.cov(np.asarray(u).reshape(-1, 12), rowvar=False)
    np.testing.assert_allclose(covariance, np.eye(12), atol=0.06)


WHITE = ["train.latent_stats=whiten", "diffusion.prediction=v", "scoring.prior=standard_normal"]


def test_where_a_network_says_nothing_white_latents_stay_where_they_are():
    """As every network does before its first step (`denoisers/test_denoisers.py`): so N(0, I) of
    x_T is the Mahalanobis distance, whatever is walked."""
    u = jax.random.normal(jax.random.key(1), (2, 4, 4, 8))
    for solver, steps, spacing in [
        ("angle", 1, "linspace"), ("angle", 3, "paper"), ("ddim", 1, "paper"),
        ("ddim", 3, "linspace"), ("ddim", 10, "quadratic"),
    ]:  # fmt: skip
        config = override(
            Config(),
            [*WHITE, f"inversion.solver={solver}", f"inversion.num_steps={steps}",
             f"inversion.spacing={spacing}"],
        )  # fmt: skip
        alpha_bar = jnp.asarray(alpha_bar_of(config), jnp.float32)

        def eps_fn(x, t, alpha_bar=alpha_bar):
            return to_eps("v", x, jnp.zeros_like(x), t, alpha_bar)

        x_T = jax.jit(partial(paradigm_of(config).states, eps_fn))(u)[:, -1]
        # float32; at the last levels sqrt(alpha_bar) is 0.006, by which eps - r x is divided
        np.testing.assert_allclose(x_T, u, rtol=1e-4, atol=1e-4)


def test_no_steps_of_training_ask_no_network():
    paradigm = paradigm_of(override(Config(), [*WHITE, "train.num_steps=0"]))
    assert paradigm.nfe == 0
    np.testing.assert_array_equal(paradigm.states(None, X0)[:, -1], X0)


def test_retrieval_is_the_distance_to_the_nearest():
    paradigm = paradigm_of(
        override(Config(), ["inversion.paradigm=retrieval", "whitening.radius=1"])
    )
    bank = bank_to_device(bank_of(NORMAL, np.zeros(N, int)))
    reference = type("Reference", (), {"bank": bank})
    scores = paradigm.compare(reference, paradigm.states(None, jnp.asarray(X0)), 8)
    for b in range(B):
        expected = np.sqrt(by_loops(X0[b], Neighbourhood(1, N))[1])
        # float16 vectors: a thousandth of their length of 2.4
        np.testing.assert_allclose(scores.latent_norm[b], expected, atol=5e-3)
