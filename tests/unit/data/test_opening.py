"""What is opened as an image: by its content, which a name need not tell."""

import io

import pytest
from PIL import Image

from invad_jax.config import DataConfig
from invad_jax.data import names, opening, preprocess
from invad_jax.errors import UserError


def test_every_ending_that_counts_as_an_image_is_of_a_format_that_is_opened():
    Image.init()
    of_endings = {Image.registered_extensions()[ending] for ending in names.EXTENSIONS}
    assert of_endings == set(opening.FORMATS)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO"])
def test_what_programs_of_the_system_would_open_is_no_image(tmp_path, kind):
    """Whatever it is called: PIL knows it by its content, and gives it to Ghostscript."""
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, kind)
    (tmp_path / "x.png").write_bytes(content.getvalue())
    with pytest.raises(UserError, match=r"x\.png: cannot be read as image: of no known image form"):
        preprocess.read_image(tmp_path / "x.png", DataConfig())


def test_two_pictures_in_one_jpeg_are_the_first(tmp_path):
    """As telephones write them."""
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[second])
    assert preprocess.read_image(tmp_path / "x.jpg", DataConfig(image_size=4))[0, 0, 0] > 200
