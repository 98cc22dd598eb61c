"""Masks as people draw, export, compress and convert them; what they should mark is drawn here."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from invad_jax.data.masks import read_mask, shrink, union
from invad_jax.errors import UserError
from tests.unit.data.layout_trees import of_size
from tests.unit.data.test_preprocess import FORMATS, refusal, save

DISC = np.hypot(*(np.mgrid[:64, :96] - np.array([30, 40])[:, None, None])) < 11
"""(64, 96) bool: what every mask of it should mark."""
WHITE = DISC * np.uint8(255)


def marked(path):
    return union([str(path)], of_size(8))


def coloured(inside, outside):
    """A picture of the disc, (64, 96, C) uint8."""
    return np.where(DISC[..., None], np.uint8(inside), np.uint8(outside))


@pytest.mark.parametrize(
    "pixels",
    [
        coloured((255, 255, 255, 255), (0, 0, 0, 255)),  # an opaque picture
        coloured((255, 255, 255, 255), (255, 255, 255, 0)),  # in the transparency alone
        coloured((0, 0, 0, 255), (0, 0, 0, 0)),  # painted in black on nothing
        coloured((0, 0, 0, 255), (255, 255, 255, 0)),
        coloured((255, 0, 0, 128), (0, 0, 0, 0)),  # half transparent paint
        coloured((255, 255, 255, 0), (0, 0, 0, 0)),  # everything transparent
        coloured((255, 255, 255, 7), (0, 0, 0, 7)),
        coloured((255, 0, 0), (0, 0, 0)),
        coloured((0, 0, 90), (0, 0, 0)),
    ],
)
def test_transparency_and_colours(tmp_path, pixels):
    np.testing.assert_array_equal(marked(save(tmp_path / "m.png", pixels)), DISC)
    if pixels.shape[-1] == 4:
        np.testing.assert_array_equal(marked(save(tmp_path / "m.tif", pixels)), DISC)


def test_what_is_erased_from_a_picture_is_not_marked(tmp_path):
    pixels = np.zeros((64, 96, 4), np.uint8)
    pixels[..., :3] = 255
    pixels[..., 3] = 255
    pixels[~DISC, :3] = 0
    pixels[:, :40, 3] = 0  # the left half of everything
    expected = DISC & (np.arange(96) >= 40)
    np.testing.assert_array_equal(marked(save(tmp_path / "m.png", pixels)), expected)


def test_grey_with_transparency(tmp_path):
    alpha = Image.fromarray(coloured((255,) * 4, (255, 255, 255, 0))).convert("LA")
    alpha.save(tmp_path / "m.png")
    np.testing.assert_array_equal(marked(tmp_path / "m.png"), DISC)


@pytest.mark.parametrize(
    ("palette", "transparent"),
    [
        ([0, 0, 0, 128, 0, 0], None),  # the palette of PASCAL VOC
        ([255, 255, 255, 255, 0, 0], 0),  # what is transparent is background
        ([0, 0, 0, 0, 0, 0], None),  # colours that say nothing
        ([7, 7, 7, 7, 7, 7], None),
    ],
)
def test_palettes(tmp_path, palette, transparent):
    image = Image.fromarray(DISC.astype(np.uint8), mode="P")
    image.putpalette(palette)
    image.save(tmp_path / "m.png", **({} if transparent is None else {"transparency": transparent}))
    np.testing.assert_array_equal(marked(tmp_path / "m.png"), DISC)


def test_a_palette_whose_first_colour_is_the_defect(tmp_path):
    image = Image.fromarray((~DISC).astype(np.uint8), mode="P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "m.gif")
    np.testing.assert_array_equal(marked(tmp_path / "m.gif"), DISC)


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
@pytest.mark.parametrize("shape", ["disc", "rectangle", "line"])
def test_compression_neither_grows_nor_shrinks_a_region(tmp_path, quality, shape):
    image = Image.new("L", (300, 200))
    draw = ImageDraw.Draw(image)
    {"disc": draw.ellipse, "rectangle": draw.rectangle, "line": draw.line}[shape](
        (70, 50, 171, 123), **({"width": 7} if shape == "line" else {}), fill=255
    )
    original = np.asarray(image) > 0
    for name in ("m.jpg", "m.webp"):
        image.convert("RGB").save(tmp_path / name, quality=quality)
        assert (marked(tmp_path / name) ^ original).sum() <= 0.02 * original.sum()
    Image.open(tmp_path / "m.jpg").save(tmp_path / "m.png")  # its noise, without loss
    np.testing.assert_array_equal(marked(tmp_path / "m.png"), marked(tmp_path / "m.jpg"))


def test_smooth_edges_are_cut_in_their_middle(tmp_path):
    exact = Image.new("L", (1600, 1200))
    ImageDraw.Draw(exact).ellipse((301, 203, 1107, 1011), fill=255)
    small = exact.resize((200, 150), Image.Resampling.BOX)  # each pixel: how much is covered
    area = np.asarray(exact, bool).sum() / 64
    assert abs(marked(save(tmp_path / "m.png", np.asarray(small))).sum() / area - 1) < 0.005


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("shades", [(1, 2, 3), (1, 4), (31, 1), (64, 128, 255), (20, 250), (40,)])
def test_kinds_of_defects_in_numbers_or_shades_are_all_marked(tmp_path, dtype, shades):
    pixels = np.zeros((30, 30), dtype)
    for i, shade in enumerate(shades):
        pixels[3 + 8 * i : 9 + 8 * i, 4:20] = shade
    name = "m.tif" if dtype in (np.int32, np.float32) else "m.png"
    np.testing.assert_array_equal(marked(save(tmp_path / name, pixels)), pixels > 0)


def test_a_number_may_mark_a_single_pixel(tmp_path):
    pixels = np.zeros((30, 30), np.uint8)
    pixels[3, 3], pixels[10:20, 10:20] = 1, 4
    np.testing.assert_array_equal(marked(save(tmp_path / "m.png", pixels)), pixels > 0)


def test_noise_marks_nothing(tmp_path):
    pixels = np.where(DISC, 250, 3).astype(np.uint8)  # black that is not quite black
    np.testing.assert_array_equal(marked(save(tmp_path / "m.png", pixels)), DISC)
    pixels = pixels + np.random.default_rng(0).integers(0, 6, pixels.shape, np.uint8)
    np.testing.assert_array_equal(marked(save(tmp_path / "m.png", pixels)), DISC)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F"])
def test_every_mode(tmp_path, mode):
    path = tmp_path / f"mask.{FORMATS[mode]}"
    if mode == "I;16":
        save(path, WHITE.astype(np.uint16))  # 255 of 65535 would vanish in 8 bits
    else:
        save(path, WHITE, mode)
    np.testing.assert_array_equal(marked(path), DISC)


def test_nothing_is_marked_in_black(tmp_path):
    for pixels in (np.zeros((4, 4), np.uint8), np.full((4, 4), np.nan, np.float32)):
        assert not marked(save(tmp_path / "m.tif", pixels)).any()


def test_several_masks_are_one(tmp_path):
    left, right = DISC.copy(), DISC.copy()
    left[:, 40:], right[:, :40] = False, False
    paths = [
        save(tmp_path / f"{i}.png", side * np.uint8(255)) for i, side in enumerate((left, right))
    ]
    image = save(tmp_path / "image.png", np.zeros((64, 96, 3), np.uint8))
    np.testing.assert_array_equal(union(paths, of_size(8)), DISC)
    both = read_mask(paths, image, of_size(32))
    np.testing.assert_array_equal(
        both, read_mask([save(tmp_path / "b.png", WHITE)], image, of_size(32))
    )
    other = save(tmp_path / "other.png", np.zeros((9, 9), np.uint8))
    assert "of another size than" in refusal(union, [paths[0], other], of_size(8))


def test_resized_by_nearest_neighbour(tmp_path):
    pixels = np.zeros((8, 8), np.uint8)
    pixels[0:2, 0:2] = 255
    path = save(tmp_path / "mask.png", pixels)
    mask = read_mask([path], path, of_size(4))
    assert mask.dtype == bool
    np.testing.assert_array_equal(np.argwhere(mask), [[0, 0]])


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (slice(0, 1), slice(0, 1), [(0, 0)]),
        (slice(999, 1000), slice(1499, 1500), [(9, 9)]),
        (slice(101, 103), slice(301, 304), [(1, 2)]),  # 100 x 150 pixels become one
        (slice(99, 101), slice(10, 11), [(0, 0), (1, 0)]),
        (slice(3, 4), slice(0, 1500), [(0, i) for i in range(10)]),  # a scratch between the rows
    ],
)
def test_no_region_is_lost(rows, columns, expected):
    marked = np.zeros((1000, 1500), bool)
    marked[rows, columns] = True
    assert [tuple(map(int, at)) for at in np.argwhere(shrink(marked, 10, 10))] == expected
    marked[500:700, 600:900] = True  # whether or not there is another one
    small = shrink(marked, 10, 10)
    assert ndimage.label(small, np.ones((3, 3)))[1] == 2
    np.testing.assert_array_equal(small[5:7, 4:6], True)


def test_a_region_that_is_seen_is_left_as_it_is():
    rng = np.random.default_rng(3)
    marked = ndimage.gaussian_filter(rng.random((300, 200)), 12) > 0.51
    nearest = Image.fromarray(marked).resize((64, 64), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(shrink(marked, 64, 64), np.asarray(nearest))
    np.testing.assert_array_equal(shrink(marked, 400, 400).any(), True)


def test_a_mask_of_another_size_names_both(tmp_path):
    image = save(tmp_path / "a.png", np.zeros((4, 6), np.uint8))
    mask = save(tmp_path / "a_mask.png", np.zeros((6, 4), np.uint8))
    message = refusal(read_mask, [mask], image, of_size(8))
    assert "4 x 6" in message
    assert "6 x 4" in message
    assert str(mask) in message


def test_missing_and_foreign_files_are_named(tmp_path):
    image = save(tmp_path / "a.png", np.zeros((4, 6), np.uint8))
    (tmp_path / "text.png").write_text("not an image")
    assert "text.png: cannot be read as mask" in refusal(
        read_mask, [tmp_path / "text.png"], image, of_size(8)
    )
    assert "no.png: no such file" in refusal(read_mask, [tmp_path / "no.png"], image, of_size(8))
    with pytest.raises(UserError, match=r"no\.png: no such file"):
        read_mask([image], tmp_path / "no.png", of_size(8))
