"""Deep images: every pixel against a formula, on one scale for a data set."""

import dataclasses
import logging

import numpy as np
import pytest
from PIL import Image

from invad_jax.config import Config, DataConfig
from invad_jax.config import io as config_io
from invad_jax.data.dataset import Sample
from invad_jax.data.depth import with_value_range
from invad_jax.data.preprocess import read_image, read_original
from invad_jax.errors import UserError
from tests.unit.data.deep_files import write_png, write_tiff
from tests.unit.data.layout_trees import of_size
from tests.unit.data.test_preprocess import refusal, save

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 4096, (20, 30, 3)).astype(np.uint16)  # 12 bits
OPAQUE = np.full((20, 30, 1), 65535, np.uint16)
EXPECTED = np.rint(VALUES * (255 / 4095)).astype(np.uint8)
TWELVE_BITS = (0.0, 4095.0)


def read(path, value_range=TWELVE_BITS):
    return read_original(path, DataConfig(value_range=value_range))


def found(*paths):
    """The range that a training on these images finds."""
    samples = [Sample(str(path), "nut", "good", 0) for path in paths]
    return with_value_range(Config(), samples).data.value_range


COLOURS = {
    "rgb.png": lambda path: write_png(path, VALUES),
    "rgba.png": lambda path: write_png(path, np.concatenate([VALUES, OPAQUE], -1)),
    "rgb.tif": lambda path: write_tiff(path, VALUES),
    "big_endian.tif": lambda path: write_tiff(path, VALUES, big_endian=True),
    "deflate.tif": lambda path: write_tiff(path, VALUES, deflate=True),
    "big_endian_deflate.tif": lambda path: write_tiff(path, VALUES, big_endian=True, deflate=True),
}
GREYS = {
    "grey.png": lambda path: write_png(path, VALUES[..., :1]),
    "alpha.png": lambda path: write_png(path, np.concatenate([VALUES[..., :1], OPAQUE], -1)),
    "grey.tif": lambda path: write_tiff(path, VALUES[..., :1]),
    "big_endian.tif": lambda path: write_tiff(path, VALUES[..., :1], big_endian=True),
    "deflate.tif": lambda path: write_tiff(path, VALUES[..., :1], deflate=True),
    "signed.tif": lambda path: write_tiff(path, VALUES[..., :1].astype(np.int16)),
    "32.tif": lambda path: write_tiff(path, VALUES[..., :1].astype(np.uint32)),
    "signed_32.tif": lambda path: write_tiff(path, VALUES[..., :1].astype(np.int32)),
    "float.tif": lambda path: write_tiff(path, VALUES[..., :1].astype(np.float32)),
    "float.pfm": lambda path: save(path, VALUES[..., 0].astype(np.float32)),
}


@pytest.mark.parametrize("name", COLOURS)
def test_colours_keep_their_lower_bytes(tmp_path, name):
    path = COLOURS[name](tmp_path / name)
    np.testing.assert_array_equal(read(path), EXPECTED)
    assert found(path) == TWELVE_BITS


@pytest.mark.parametrize("name", GREYS)
def test_grey_in_every_type(tmp_path, name):
    path = GREYS[name](tmp_path / name)
    np.testing.assert_array_equal(read(path), np.repeat(EXPECTED[..., :1], 3, axis=-1))
    assert found(path) == TWELVE_BITS


@pytest.mark.parametrize("channels", [1, 3])
def test_deep_images_are_turned_upright(tmp_path, channels):
    turned = np.ascontiguousarray(VALUES[::-1, ::-1, :channels])
    path = write_tiff(tmp_path / "a.tif", turned, orientation=3)
    np.testing.assert_array_equal(read(path)[..., :channels], EXPECTED[..., :channels])


def test_where_white_is_zero_it_is_inverted(tmp_path):
    values = np.array([[[65535], [257 * 100], [0]]], np.uint16)
    for big_endian in (False, True):
        path = tmp_path / "a.tif"
        write_tiff(path, values, photometric=0, big_endian=big_endian)
        if big_endian:
            assert "a.tif: cannot be read" in refusal(read, path)  # PIL does not read it
        else:
            assert read(path, (0.0, 65535.0))[0, :, 0].tolist() == [0, 155, 255]
    write_tiff(tmp_path / "f.tif", values.astype(np.float32), photometric=0)
    assert "white is 0" in refusal(read, tmp_path / "f.tif")


def test_unsigned_values_beyond_the_signed(tmp_path):
    path = write_tiff(tmp_path / "a.tif", np.array([[[0], [2**31], [2**32 - 1]]], np.uint32))
    assert read(path, (0.0, 2.0**32 - 1))[0, :, 0].tolist() == [0, 128, 255]


def test_a_plane_for_each_deep_colour_is_named(tmp_path):
    path = write_tiff(tmp_path / "a.tif", VALUES, planar=True)
    assert f"{path}: a TIFF of more than 8 bits with a plane for each colour" in refusal(read, path)
    path = write_tiff(tmp_path / "b.tif", EXPECTED, planar=True)  # 8 bits are read well
    np.testing.assert_array_equal(read(path), EXPECTED)


@pytest.mark.parametrize(
    ("values", "value_range", "expected"),
    [
        ([0, 4095, 5000], (0, 4095), [0, 255, 255]),
        ([-6.0, 10, 24], (-20, 30), [71, 153, 224]),
        ([np.nan, np.inf, -np.inf], (0, 1), [0, 0, 0]),
        ([29000, 30000, 31000], (29000, 31000), [0, 128, 255]),
        ([0, 0.4, 1], (0, 1), [0, 102, 255]),
    ],
)
def test_values_are_scaled_and_clipped(tmp_path, values, value_range, expected):
    path = save(tmp_path / "a.tif", np.array([values], np.float32))
    assert read(path, tuple(map(float, value_range)))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("low", "high", "dtype", "expected"),
    [
        (0, 1023, np.uint16, (0, 1023)),
        (7, 900, np.uint16, (0, 1023)),  # 10 bits, not all of them used
        (100, 4080, np.uint16, (0, 4095)),
        (0, 16000, np.uint16, (0, 16383)),
        (0, 65535, np.uint16, (0, 65535)),
        (29000, 31000, np.uint16, (28500, 31500)),  # a thermal camera's hundredths of a kelvin
        (-20, 60, np.float32, (-40, 80)),
        (0, 1, np.float32, (0, 1)),
        (0.1, 0.9, np.float32, (0, 1)),
        (0, 200, np.float32, (0, 255)),
        (0.5, 0.6, np.float32, (0.475, 0.625)),
        (0, 0, np.uint16, (-1, 1)),
        (0, 1000, np.int32, (0, 1023)),
    ],
)
def test_the_range_is_that_of_all_training_images(tmp_path, caplog, low, high, dtype, expected):
    """Neither image has it all: one is dark, one is bright."""
    middle = dtype((low + high) / 2)
    for name, ends in (("dark.tif", (low, middle)), ("bright.tif", (middle, high))):
        save(tmp_path / name, np.linspace(*ends, 600).reshape(20, 30).astype(dtype))
    with caplog.at_level(logging.INFO):
        value_range = found(tmp_path / "dark.tif", tmp_path / "bright.tif")
    assert value_range == pytest.approx(expected, rel=1e-6)
    assert "2 training images are deeper than 8 bits: data.value_range=" in caplog.text


def test_dead_and_hot_pixels_do_not_set_the_range(tmp_path):
    values = RNG.integers(1, 4000, (64, 64)).astype(np.uint16)
    values[3, 5], values[60, 7] = 65535, 0
    assert found(save(tmp_path / "a.png", values)) == TWELVE_BITS


def test_what_is_given_stays_and_what_has_8_bits_asks_for_none(tmp_path):
    deep = write_png(tmp_path / "deep.png", VALUES)
    flat = save(tmp_path / "flat.png", EXPECTED)
    assert found(flat) == ()
    assert found(flat, deep) == TWELVE_BITS
    given = dataclasses.replace(Config(), data=DataConfig(value_range=(1.0, 2.0)))
    assert with_value_range(given, [Sample(str(deep), "nut", "good", 0)]) is given


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("value_range", [(), TWELVE_BITS, (100.0, 101.0)])
def test_8_bits_are_not_touched(tmp_path, mode, value_range):
    image = Image.fromarray(EXPECTED).convert(mode)
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    expected = Image.open(path).convert("RGB").resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read_image(path, of_size(8, value_range=value_range)), expected)


def test_16_bits_are_their_full_range_where_training_had_none(tmp_path):
    full = (VALUES.astype(np.uint32) * 16).astype(np.uint16)
    expected = np.rint(full / 257).astype(np.uint8)
    np.testing.assert_array_equal(read(write_png(tmp_path / "a.png", full), ()), expected)
    grey = write_tiff(tmp_path / "a.tif", full[..., :1])
    np.testing.assert_array_equal(read(grey, ())[..., 0], expected[..., 0])
    (tmp_path / "a.pgm").write_bytes(b"P5 30 20 65535\n" + full[..., 0].astype(">u2").tobytes())
    np.testing.assert_array_equal(read(tmp_path / "a.pgm", ())[..., 0], expected[..., 0])


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_a_scale_are_named(tmp_path, dtype):
    path = save(tmp_path / "a.tif", VALUES[..., 0].astype(dtype))
    message = refusal(read, path, ())
    assert message.startswith(f"{path}: its pixels are floats or 32-bit numbers")
    assert "data.value_range=BLACK,WHITE" in message


@pytest.mark.parametrize("text", ["1", "1,2,3", "2,1", "3,3", "0,inf", "nan,1"])
def test_ranges_that_are_none(text):
    with pytest.raises(UserError, match=r"^data\.value_range="):
        config_io.override(Config(), [f"data.value_range={text}"])


def test_a_range_is_kept_in_the_config():
    config = config_io.override(Config(), ["data.value_range=-20,60.5"])
    assert config.data.value_range == (-20.0, 60.5)
    assert config_io.from_dict(config_io.to_dict(config)) == config
    (difference,) = config_io.frozen_differences(Config(), config)
    assert difference.startswith("data.value_range is (), was (-20.0, 60.5)")


def test_more_pixels_than_allowed(tmp_path):
    path = save(tmp_path / "a.png", np.zeros((20, 30), np.uint8))
    message = refusal(read_image, path, of_size(8, max_pixels=599))
    assert message == (
        f"{path}: 30 x 20 pixels are more than data.max_pixels=599; make it smaller, or give a "
        "greater data.max_pixels"
    )
    assert read_image(path, of_size(8, max_pixels=600)).shape == (8, 8, 3)


def test_far_more_pixels_than_pil_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = save(tmp_path / "a.png", np.zeros((20, 30), np.uint8))
    message = refusal(read_image, path, of_size(8, max_pixels=150))
    assert message.startswith(f"{path}: more than twice as many pixels as data.max_pixels=150")


def test_the_limit_may_be_higher_than_that_of_pil(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # it refuses what has more than 200
    path = save(tmp_path / "a.png", np.zeros((20, 30), np.uint8))
    assert read_image(path, of_size(8, max_pixels=10_000)).shape == (8, 8, 3)
