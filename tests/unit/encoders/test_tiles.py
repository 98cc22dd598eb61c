"""Tiles: what each of them says comes back where it was, blended by weights that add up to 1."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invad_jax.config import Config, EncoderConfig, TilingConfig
from invad_jax.config.io import override
from invad_jax.encoders import build_encoder
from invad_jax.encoders.tiles import blend, starts, tiled
from invad_jax.errors import UserError

LITE0 = EncoderConfig("efficientnet_lite0", weights="random", stages=(0, 2))


@st.composite
def sides(draw):
    tile = draw(st.integers(1, 12))
    return draw(st.integers(tile, 60)), tile, draw(st.integers(0, tile - 1))


@given(sides())
def test_weights_add_up_to_one_at_every_position(side):
    length, tile, overlap = side
    first = starts(length, tile, overlap)
    assert first[0] == 0
    assert first[-1] + tile == length
    weight = blend(first, tile, overlap, length)
    # Quotients rounded to float32, of which up to `tile` are added.
    np.testing.assert_allclose(weight.sum(axis=(0, 2)), 1, rtol=0, atol=tile * 6e-8)
    assert weight.min() >= 0


def test_weights_fall_smoothly_to_the_edges():
    weight = blend([0, 6], 8, 2, 14)
    first = weight[0].sum(axis=1)[:8]
    # sin^2 at a quarter and three quarters of the way through two positions of overlap.
    np.testing.assert_allclose(first[5:], [1, np.cos(np.pi / 8) ** 2, np.sin(np.pi / 8) ** 2], 1e-6)


def mean_of_cells(variables, image):
    """An encoder of 4 x 4 pixels a position that sees no neighbour."""
    B, S, _, C = image.shape
    return jnp.reshape(image.astype(jnp.float32), (B, S // 4, 4, S // 4, 4, C)).mean((2, 4))


@pytest.mark.parametrize(("size", "overlap"), [(16, 0), (16, 8), (20, 12), (40, 4)])
def test_an_encoder_that_sees_no_neighbour_does_not_notice_tiles(size, overlap):
    image = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    apply = tiled(mean_of_cells, TilingConfig(size, overlap), 40, size // 4)
    # Weights of float32 on values up to 255.
    np.testing.assert_allclose(
        jax.jit(apply)((), image), mean_of_cells((), jnp.asarray(image)), rtol=1e-6
    )


def test_a_tile_is_seen_as_an_image_of_its_size():
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    small = build_encoder(LITE0, 32)
    large = build_encoder(LITE0, 64, TilingConfig(32))
    assert large.latent_shape == (2 * small.latent_shape[0], 2 * small.latent_shape[1], 16 + 24)
    latent = np.asarray(jax.jit(large.apply)(large.variables, image))
    of_tile = np.asarray(jax.jit(small.apply)(small.variables, image[:, 32:, :32]))
    h, w, _ = small.latent_shape
    np.testing.assert_allclose(latent[:, h:, :w], of_tile, rtol=1e-5, atol=1e-5)


def test_overlap_is_part_of_the_fingerprint():
    plain, tiles, more = (
        build_encoder(LITE0, 64, TilingConfig(*tiling)).fingerprint
        for tiling in ((), (32,), (32, 16))
    )
    assert len({plain, tiles, more}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["tiling.size=8"], "tiling.size=8: must be 0, or 16 to data.image_size=256"),
        (["tiling.size=512"], "tiling.size=512: must be 0, or 16 to data.image_size=256"),
        (["tiling.overlap=8"], "tiling.overlap=8: would have no effect.*tiling.size!=0"),
        (["tiling.size=64", "tiling.overlap=64"], "tiling.overlap=64: must be below tiling.size"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        override(Config(), options)


@pytest.mark.parametrize(
    ("image_size", "tiling", "message"),
    [
        (256, (64, 24), "tiling.overlap=24: must be a multiple of 16.*has 4 positions a side"),
        (200, (64, 16), "data.image_size=200: must be a multiple of 16"),
        (256, (70,), "tiling.size=70: must be a multiple of 17.5 whole pixels"),
    ],
)
def test_tiles_lie_on_the_grid(image_size, tiling, message):
    config = dataclasses.replace(LITE0, stages=())
    with pytest.raises(UserError, match=message):
        build_encoder(config, image_size, TilingConfig(*tiling))


def test_a_tile_has_to_suit_the_encoder():
    config = EncoderConfig("dinov2_vits14", weights="random")
    with pytest.raises(UserError, match=r"tiling.size=100: dinov2_vits14 needs a multiple"):
        build_encoder(config, 224, TilingConfig(100))
