"""What takes no part changes nothing: not the score, not the map, not the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from invad_jax import metrics
from invad_jax.config import Config, DataConfig
from invad_jax.config.io import override
from invad_jax.data import maps, preprocess
from invad_jax.diffusion.loss import eps_loss, v_loss
from invad_jax.encoders import components
from invad_jax.geometry import encode_in_part, filled, in_part, taking_part
from invad_jax.inference.whitening import Learner
from invad_jax.normality import gaussian
from invad_jax.paradigms.prior import with_standard_normal, with_standard_normal_in_part
from invad_jax.runtime.sharding import make_mesh
from invad_jax.scoring import upsample, upsample_part
from invad_jax.training.denoiser import latent_stats

LETTERBOX = DataConfig(image_size=16, aspect="letterbox")


def letterboxed(rows, columns, side=16):
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 4), dtype=np.uint8)
    image[..., 3] = 0
    image[:, :rows, :columns, 3] = 255
    return image


def test_extent_is_read_off_the_fourth_channel():
    images = np.concatenate([letterboxed(5, 16), letterboxed(16, 3), letterboxed(16, 16)])
    assert filled(images).tolist() == [[5, 16], [16, 3], [16, 16]]
    assert filled(images[..., :3]).tolist() == [[16, 16]] * 3


def test_a_position_takes_part_if_the_image_reaches_its_cell():
    for rows, count in ((1, 1), (4, 1), (5, 2), (8, 2), (16, 4)):  # cells of 4 pixels
        part = taking_part(letterboxed(rows, 16), None, (4, 4))[0]
        assert part[:, 0].tolist() == [True] * count + [False] * (4 - count)
        assert (part == part[:, :1]).all()


def test_a_region_is_spread_over_the_image_and_not_over_the_square():
    region = np.zeros((8, 8), bool)
    region[:, 4:] = True  # the right half
    assert taking_part(letterboxed(16, 16)[..., :3], region, (4, 4))[0, 0].tolist() == [
        False, False, True, True,
    ]  # fmt: skip
    narrow = taking_part(letterboxed(16, 8), region, (4, 4))[0, 0]
    assert narrow.tolist() == [False, True, False, False]


@pytest.fixture
def states():
    return np.random.default_rng(0).standard_normal((3, 1, 6, 5, 4)).astype(np.float32)


def test_scores_of_a_part_are_those_of_its_positions_alone(states):
    whole = with_standard_normal(None, states[:, :, :4, :3], 24)
    part = np.full(states.shape, np.nan, np.float32)
    part[:, :, :4, :3] = states[:, :, :4, :3]
    found = with_standard_normal_in_part(None, part, 24)
    for name in ("nll", "map_range", "map_mean", "map_max", "map_top"):
        # Sums of float32 in another order.
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-6)
    np.testing.assert_array_equal(found.latent_norm[:, :4, :3], whole.latent_norm)
    assert np.isnan(found.latent_norm[:, 4:]).all()


def test_what_lies_outside_has_no_influence(states):
    encode = encode_in_part(lambda variables, image: variables, None)
    image = np.repeat(letterboxed(8, 16), 3, axis=0)

    def score(latent):
        walk = in_part(lambda network, x0: (x0 + x0.mean(axis=(1, 2), keepdims=True))[:, None])
        return with_standard_normal_in_part(None, walk(None, encode(latent, image)), 24)

    other = states[:, 0].copy()
    other[:, 3:] += 100
    for one, two in zip(score(states[:, 0])[:7], score(other)[:7], strict=True):
        np.testing.assert_array_equal(one, two)


def test_an_image_without_a_part_has_no_score(states):
    found = with_standard_normal_in_part(None, np.full_like(states, np.nan), 24)
    for name in ("nll", "map_range", "map_mean", "map_max", "map_top"):
        assert not np.isfinite(getattr(found, name)).any()


def test_a_map_is_not_drawn_down_at_the_edge_of_a_part():
    norm = np.full((1, 4, 4), np.nan, np.float32)
    norm[:, :2] = 7.0
    expected = np.full((1, 16, 16), np.nan, np.float32)
    expected[:, :8] = 7.0
    np.testing.assert_allclose(maps.enlarge(norm, 16), expected, rtol=1e-6)
    part = jnp.isfinite(norm)
    np.testing.assert_allclose(upsample_part(norm, part, 16), expected, rtol=1e-6)
    random = np.random.default_rng(0).random((2, 4, 4)).astype(np.float32)
    everything = upsample_part(random, jnp.ones((2, 4, 4), bool), 16)
    np.testing.assert_allclose(everything, upsample(random, 16), rtol=1e-6)
    np.testing.assert_allclose(maps.of_image(norm[0], 16, (6, 16)), 7.0, rtol=1e-6)


def test_a_letterbox_keeps_proportions(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = preprocess.read_image(tmp_path / "wide.png", LETTERBOX)
    small = np.asarray(Image.fromarray(pixels).resize((16, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found[:4, :, :3], small)
    np.testing.assert_array_equal(found[4:, :, :3], np.repeat(small[3:], 12, axis=0))
    assert found[..., 3].tolist() == [[255] * 16] * 4 + [[0] * 16] * 12
    assert preprocess.extent((8, 32), LETTERBOX) == (16, 4)
    assert preprocess.extent((1000, 1), LETTERBOX) == (1, 16)


def test_a_part_is_compiled_as_anything_else(states):
    image = np.repeat(letterboxed(8, 16), 3, axis=0)
    encode = encode_in_part(lambda variables, image: variables, np.ones((16, 16), bool))
    plain, compiled = encode(states[:, 0], image), jax.jit(encode)(states[:, 0], image)
    np.testing.assert_array_equal(plain, compiled)


@pytest.mark.parametrize("mean", ["retrieved", "position"])
def test_coordinates_of_a_part_are_those_of_its_positions_alone(mean):
    rng = np.random.default_rng(0)
    kind = np.repeat(["bolt", "nut"], 12)
    latents = rng.standard_normal((24, 4, 5, 3)).astype(np.float32)
    latents[12:, :2] += 3
    part = latents.copy()
    part[:, 2:] = np.nan
    config = override(
        Config(),
        ["train.latent_stats=whiten", "diffusion.prediction=v", f"whitening.mean={mean}"],
    )
    stats = latent_stats(part, "channel")
    expected_stats = latent_stats(latents[:, :2], "channel")
    for ours, theirs in zip(stats, expected_stats, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    learner = Learner(config, stats, make_mesh(config.mesh))
    fitted, rest = learner.fit(part, kind)
    expected, its_rest = learner.fit(latents[:, :2], kind)
    # Float32 products, and sums in another order.
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(rest[:, :2], its_rest, **close)
    assert np.isnan(rest[:, 2:]).all()
    rows = learner.training_rows(rest, kind)
    np.testing.assert_allclose(rows[:, :2], learner.training_rows(its_rest, kind), **close)
    new = learner.white(fitted, part[::5] + 0.1)
    np.testing.assert_allclose(new[:, :2], learner.white(expected, latents[::5, :2] + 0.1), **close)


def test_an_image_of_another_shape_changes_nothing_where_the_others_are():
    """Where it is the only one, nothing is left of it when it is left out."""
    latents = np.random.default_rng(0).standard_normal((12, 4, 5, 3)).astype(np.float32)
    latents[1:, 2:] = np.nan
    options = ["train.latent_stats=whiten", "diffusion.prediction=v", "whitening.radius=0"]
    config = override(Config(), options)
    stats, kind = latent_stats(latents[:, :2], "channel"), np.repeat("bolt", 12)
    learner = Learner(config, stats, make_mesh(config.mesh))
    fitted, rest = learner.fit(latents, kind)
    expected, its_rest = learner.fit(latents[:, :2], kind)
    assert np.isnan(rest[:, 2:]).all()
    # The image is described by more positions, so that others may be its most similar ones.
    np.testing.assert_allclose(fitted.bank.bandwidth[:, :2], expected.bank.bandwidth, rtol=0.2)
    assert np.abs(rest[:, :2]).max() < 2 * np.abs(its_rest).max()
    defect = latents[1:3].copy() + 3
    found, wanted = (learner.white(f, x) for f, x in ((fitted, defect), (expected, defect[:, :2])))
    lengths = [np.linalg.norm(u[:, :2], axis=-1).mean() for u in (found, wanted)]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.1)


def test_an_image_tells_nothing_of_a_position_that_it_lacks():
    x = np.random.default_rng(0).standard_normal((9, 3, 2))
    some = x.copy()
    some[4:, 1], some[:, 2] = np.nan, np.nan
    found = gaussian.moments([some[:5].copy(), some[5:].copy()])
    for p, rows in ((0, x), (1, x[:4])):
        expected = gaussian.moments([rows.copy()])
        np.testing.assert_allclose(found.mean[p], expected.mean[p])
        np.testing.assert_allclose(found.covariance[p], expected.covariance[p])
    assert np.isnan(found.covariance[2]).all()


@pytest.mark.parametrize("loss", [eps_loss, v_loss])
def test_the_loss_is_of_the_part_alone(loss):
    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 3, 4, 5, 2)).astype(np.float32)
    alpha_bar = jnp.linspace(0.9, 0.1, 10)
    t, part = np.array([2, 5, 7]), np.zeros((3, 4, 5, 1), bool)
    part[:, 1:, :3] = True

    @jax.jit
    def of(x0, noise, part=None):
        return loss(lambda x, t: jnp.tanh(x), x0, t, noise, alpha_bar, part)

    expected = of(x0[:, 1:, :3], noise[:, 1:, :3])
    np.testing.assert_allclose(of(x0, noise, part), expected, rtol=1e-6)


def test_components_are_of_the_part_alone():
    latent = np.random.default_rng(0).standard_normal((4, 3, 3, 2)).astype(np.float32)
    known = np.array([True, True, True, False])
    expected = components.moments(latent[:, :2], known)
    part = latent.copy()
    part[:, 2] = np.nan
    for ours, theirs in zip(components.moments(part, known), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_pixel_metrics_are_of_the_part_alone():
    rng = np.random.default_rng(0)
    anomaly_map = rng.random((4, 9, 8)).astype(np.float32)
    gt_mask = rng.random((4, 9, 8)) < 0.2
    known = np.zeros((4, 9, 8), bool)
    known[:3, 2:, :6] = True
    expected = metrics.pixel_metrics(anomaly_map[:3, 2:, :6], gt_mask[:3, 2:, :6])
    spoilt = np.where(known, anomaly_map, np.nan)
    found, _ = metrics.pixel_metrics_of(
        lambda: [(spoilt[:2], gt_mask[:2], known[:2]), (spoilt[2:], gt_mask[2:], known[2:])]
    )
    assert found == expected
