"""Image files of any mode and size; oracles are drawn pixel by pixel or computed by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from invad_jax.data.masks import read_mask
from invad_jax.data.names import EXTENSIONS
from invad_jax.data.preprocess import read_image, size_of
from invad_jax.errors import UserError
from tests.unit.data.layout_trees import of_size

FORMATS = {
    "1": "png", "L": "png", "LA": "png", "P": "png", "RGB": "png", "RGBA": "png", "CMYK": "jpg",
    "I;16": "png", "I": "tif", "F": "tif", "YCbCr": "jpg", "I;16B": "tif",
}  # fmt: skip
ORIENTATION = 0x0112


def refusal(function, *args):
    with pytest.raises(UserError) as error:
        function(*args)
    message = str(error.value)
    assert "\n" not in message
    return message


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(np.asarray(pixels))
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@given(
    mode=st.sampled_from(sorted(FORMATS)),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    image_size=st.integers(1, 33),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=100)
def test_every_mode_and_size_gives_an_rgb_square(
    tmp_path_factory, mode, width, height, image_size, seed
):
    grey = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    path = tmp_path_factory.mktemp("modes") / f"image.{FORMATS[mode]}"
    if mode == "I;16B":
        Image.frombytes(mode, (width, height), grey.astype(">u2").tobytes()).save(path)
    elif mode == "I;16":
        save(path, grey.astype(np.uint16) * 257)
    else:
        save(path, grey, mode)
    image = read_image(path, of_size(image_size, value_range=(0.0, 255.0)))
    assert image.shape == (image_size, image_size, 3)
    assert image.dtype == np.uint8
    assert read_mask([path], path, of_size(image_size)).shape == (image_size, image_size)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "I;16", "I", "F"])
def test_grey_levels_survive_every_lossless_mode(tmp_path, mode):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = tmp_path / f"image.{FORMATS[mode]}"
    if mode == "I;16":
        save(path, grey.astype(np.uint16) * 257)
    else:
        save(path, grey, mode)
    white = 65535.0 if mode == "I;16" else 255.0
    image = read_image(path, of_size(16, value_range=(0.0, white)))
    # P goes through PIL's own web palette, whose grey steps are 51 apart
    assert np.abs(image - grey[:, :, None].astype(int)).max() <= (26 if mode == "P" else 0)


def test_resize_is_pil_bilinear_on_the_whole_image(tmp_path):
    ramp = np.tile(np.repeat(np.array([0, 200], np.uint8), 2), (2, 1))  # 0 0 200 200, twice
    image = read_image(save(tmp_path / "a.png", ramp), of_size(2))
    # PIL widens the triangle filter by the factor 2: weights 3/8 3/8 1/8 before normalising by 7/8
    np.testing.assert_array_equal(image[0, :, 0], [round(200 / 7), round(200 * 6 / 7)])


@pytest.mark.parametrize("extension", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_image_and_mask_upright(tmp_path, orientation, extension):
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :16] = 255  # the quarter at the top left, so that every orientation shows
    undo = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: upright.T[::-1], 7: upright[::-1, ::-1].T, 8: upright.T[:, ::-1],
    }  # fmt: skip
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / f"a.{extension}", undo[orientation], exif=exif)
    mask_path = save(tmp_path / "mask.png", upright)
    image = read_image(path, of_size(32))[:, :, 0]
    bright = np.zeros((32, 32), bool)
    bright[:16, :16] = True
    assert (image > 128).astype(int)[::8, ::8].tolist() == bright.astype(int)[::8, ::8].tolist()
    np.testing.assert_array_equal(read_mask([mask_path], path, of_size(32)), bright)
    assert size_of(path, of_size(32)) == (32, 16)


def test_palette_transparency_gives_no_warning(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png", of_size(2)).shape == (2, 2, 3)


@given(cut=st.integers(0, 2000), extension=st.sampled_from(["png", "jpg", "tif", "bmp", "gif"]))
@settings(max_examples=60)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path_factory, cut, extension):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = save(tmp_path_factory.mktemp("damaged") / f"a.{extension}", pixels)
    content = path.read_bytes()
    path.write_bytes(content[: min(cut, len(content) // 2)])
    assert str(path) in refusal(read_image, path, of_size(8))


@pytest.mark.parametrize("read", [read_image, lambda path, data: read_mask([path], path, data)])
def test_missing_and_foreign_files_are_named(tmp_path, read):
    (tmp_path / "text.png").write_text("not an image")
    assert "text.png: cannot be read" in refusal(read, tmp_path / "text.png", of_size(8))
    assert "no.png: no such file" in refusal(read, tmp_path / "no.png", of_size(8))


def test_pil_reads_every_extension_that_is_listed():
    assert set(EXTENSIONS) <= set(Image.registered_extensions())


@pytest.mark.parametrize(
    ("name", "size"),
    [("bottle", (512, 512)), ("bsdata", (565, 230)), ("aws_cookie", (384, 512))],
)
def test_real_images_and_masks(shared_dir, name, size):
    root = shared_dir / "data" / name
    mask_path = min((root / "ground_truth").rglob("*_mask.png"))
    of_image = mask_path.name.replace("_mask.png", ".jpg")
    image_path = root / "test" / mask_path.parent.name / of_image
    mask = read_mask([str(mask_path)], str(image_path), of_size(size[0]))
    assert 0 < mask.mean() < 0.5
    image = read_image(image_path, of_size(64))
    assert image.std() > 5  # not blank: photographs of these sets vary by tens of grey levels
