"""The file that stands alone: what it imports, and that it resizes as the package does."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invad_jax.inference import loader

SOURCE = Path(loader.__file__)


def test_it_is_short_and_needs_jax_and_numpy_alone():
    text = SOURCE.read_text()
    assert len(text.splitlines()) < 100
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)
        for alias in node.names
    }  # fmt: skip
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(ast.parse(text)))
    assert imported - set(sys.stdlib_module_names) == {"jax", "numpy"}


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [
        (30, 40, 64),
        (300, 400, 64),
        (64, 64, 64),
        (64, 100, 64),
        (50, 51, 128),
        (1, 1, 8),
        (5, 9, 3),
    ],
)
def test_resizing_is_pillows(height, width, side):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(loader.squared(image, side, 3), np.asarray(expected))


@pytest.mark.parametrize(("height", "width", "side"), [(400, 300, 64), (90, 20, 64), (500, 10, 32)])
def test_of_tall_images_the_passes_may_change_places(height, width, side):
    """Pillow 13 goes over the rows first where that is cheaper: it rounds in another order."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(
        loader.squared(image, side, 3).astype(int), np.asarray(expected).astype(int), atol=1
    )


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)]
)
def test_what_is_no_rgb_of_8_bits_is_refused(image):
    with pytest.raises(ValueError, match="expected uint8"):
        loader.squared(image, 8, 3)
