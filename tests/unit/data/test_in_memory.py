"""An image in memory is what it would be in a file, or is refused in one line."""

import io

import numpy as np
import pytest
from PIL import Image

from invad_jax.config import DataConfig
from invad_jax.data import in_memory, preprocess
from invad_jax.errors import UserError
from tests.unit.data.deep_files import write_png, write_tiff

DATA = DataConfig(image_size=8)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def read(images, data=DATA):
    return [in_memory.read(given, data) for given in in_memory.each(images)]


@pytest.fixture
def path(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path,
        str,
        lambda path: path.parent,
        lambda path: Image.fromarray(PIXELS),
        lambda path: PIXELS,
        lambda path: PIXELS[None],
        lambda path: np.asfortranarray(PIXELS),
        lambda path: np.dstack([PIXELS, PIXELS[..., 0]]),
        lambda path: PIXELS.astype(np.uint16) * 257,
        lambda path: Image.open(io.BytesIO(path.read_bytes())),  # not decoded yet
        lambda path: np.array([str(path)]),
        lambda path: np.array([path], object),
        lambda path: iter([PIXELS]),
        lambda path: (each for each in [path]),
    ],
)
def test_however_it_is_given_it_is_what_the_file_gives(path, make):
    (found,) = read(make(path))
    np.testing.assert_array_equal(found, preprocess.read_image(path, DATA))


def test_grey_and_turned_images(tmp_path):
    grey = PIXELS[..., 0]
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(read(array)[0], read(np.dstack([grey] * 3))[0])
    turned = Image.fromarray(PIXELS)
    turned.getexif()[274] = 6  # to be turned by a quarter, clockwise
    np.testing.assert_array_equal(read(turned)[0], read(np.rot90(PIXELS, -1))[0])


def test_deep_pixels_are_on_the_scale_of_the_training(tmp_path):
    """12 bits in a 16-bit file, and the same numbers as an array of any type."""
    grey = (PIXELS[..., 0].astype(np.uint16) << 4) + 7
    Image.fromarray(grey).save(tmp_path / "deep.png")
    for data in (DATA, DataConfig(image_size=8, value_range=(0.0, 4095.0))):
        expected = preprocess.read_image(tmp_path / "deep.png", data)
        with Image.open(tmp_path / "deep.png") as image:
            (found,) = read(image, data)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(read(grey, data)[0], expected)
    for kind in (np.float32, np.int32, np.float64):
        np.testing.assert_array_equal(read(grey.astype(kind), data)[0], expected)


def test_what_pil_leaves_to_the_file_is_read_there(tmp_path):
    """Lower bytes of colours, and tags that say what the numbers mean."""
    values = PIXELS.astype(np.uint16) << 4
    data = DataConfig(image_size=8, value_range=(0.0, 4095.0))
    paths = [
        write_tiff(tmp_path / "inverted.tif", values[..., :1], photometric=0),
        write_tiff(tmp_path / "unsigned.tif", values[..., :1].astype(np.uint32)),
        write_png(tmp_path / "a.png", values),
        write_tiff(tmp_path / "a.tif", values),
    ]
    for path in paths:
        with Image.open(path) as image:
            (found,) = read(image, data)
        np.testing.assert_array_equal(found, preprocess.read_image(path, data))


def test_a_deep_picture_is_what_it_is_now(tmp_path):
    """Another one of its file, or changed since it was read."""
    data = DataConfig(image_size=8, value_range=(0.0, 60000.0))
    pages = [Image.fromarray(np.full((8, 8), value, np.uint16)) for value in (0, 60000)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with Image.open(tmp_path / "a.tif") as image:
        assert read(image, data)[0].max() == 0
        image.seek(1)
        assert read(image, data)[0].min() == 255
        image.seek(0)
        image.putpixel((0, 0), 60000)
        assert read(image, data)[0][0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("values", [PIXELS[..., :1].astype(np.uint32), None])
def test_numbers_that_were_decoded_without_their_meaning_are_one_line(tmp_path, values):
    inverted = PIXELS[..., :1].astype(np.uint16)
    path = tmp_path / "a.tif"
    write_tiff(path, inverted, photometric=0) if values is None else write_tiff(path, values)
    with Image.open(path) as image:
        image.load()
        with pytest.raises(UserError, match="does not keep what its numbers mean; give the path"):
            read(image)


def test_deep_colours_without_a_file_are_one_line(tmp_path):
    path = write_png(tmp_path / "a.png", PIXELS.astype(np.uint16))
    with pytest.raises(UserError, match="colours of 16 bits: PIL keeps 8; give the path"):
        read(Image.open(io.BytesIO(path.read_bytes())))


def test_a_picture_of_somebody_else_is_not_changed():
    turned = Image.fromarray(PIXELS)
    turned.getexif()[274] = 6
    read(turned)
    assert turned.size == (30, 20)
    assert turned.getexif()[274] == 6


def test_many_are_read_one_at_a_time():
    """Nothing is asked of an iterator before it is needed: it may have no end."""

    def endless():
        while True:
            yield PIXELS

    given = in_memory.each(endless())
    assert next(given).name == "images[0]"
    assert next(given).name == "images[1]"


def test_paths_are_known_and_arrays_have_none(path):
    assert [given.path for given in in_memory.each([path, PIXELS])] == [str(path), None]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PIXELS / 255.0, "float64, which do not say what white is"),
        ([PIXELS, PIXELS.astype(np.float32)], r"images\[1\]: numbers of type float32"),
        (PIXELS > 9, "type bool"), (PIXELS.astype(int), "type int64"),
        (PIXELS.transpose(2, 0, 1), "channels come last"),
        (PIXELS[None].transpose(0, 3, 1, 2), "channels come last"),
        (PIXELS[..., :2], r"shape \(20, 30, 2\)"), (PIXELS[:0], r"shape \(0, 30, 3\)"),
        (np.float32(3), r"shape \(\)"), (np.array(object()), r"shape \(\)"),
        (Image.new("RGB", (0, 0)), "without pixels"), (b"bytes", "images: bytes: expected a path"),
        ({"a": PIXELS}, "images: dict"), (None, "NoneType"), (3, "images: int"),
        ([PIXELS, 3.0], r"images\[1\]: float"), ([["a.png"]], r"images\[0\]: list"),
        ("absent.png", "absent.png: no such file"), ("a\0b", "no such file"), ("", "no such file"),
    ],
)  # fmt: skip
def test_anything_else_is_one_line(images, message):
    with pytest.raises(UserError, match=message) as caught:
        read(images)
    assert "\n" not in str(caught.value)
