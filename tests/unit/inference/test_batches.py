"""How many images are compiled for, and how many go through an encoder at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import Config, EvalConfig, MeshConfig
from invad_jax.config.io import override
from invad_jax.coordinates import in_rounds
from invad_jax.inference.batches import fitting
from invad_jax.inference.in_parts import IN_CACHES, at_once, in_parts
from invad_jax.runtime.sharding import batch_sharding, make_mesh, replicated


def mesh_of(devices):
    return make_mesh(MeshConfig(), jax.devices()[:devices])


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("most", [1, 16, 24])
def test_few_sizes_and_little_padding(devices, most):
    most = most * devices
    found = {count: fitting(count, most, devices) for count in range(1, 3 * most)}
    assert len(set(found.values())) <= 4
    assert found[1] == devices
    for count, size in found.items():
        assert size % devices == 0
        assert size <= most
        assert size >= min(count, most)
        assert size < 4 * max(count, devices)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("most", [1, 6, 64])
def test_a_cpu_takes_what_its_caches_hold(devices, most):
    config = override(Config(eval=EvalConfig(batch_size=most)), ["denoiser.width=256"])
    asked = devices * -(-most // devices)
    found = {}
    for side in (4, 16, 32, 64, 128):
        rows = found[side] = at_once(config, (side, side), devices, "cpu")
        values = side * side * 256
        assert rows % devices == 0
        assert rows == asked or rows // devices * values <= max(IN_CACHES, values)
        assert rows == asked or 2 * rows // devices * values > IN_CACHES  # and no fewer
    assert found[4] == asked
    assert found[128] == devices
    without = override(config, ["inversion.paradigm=padim"])
    assert at_once(without, (128, 128), devices, "cpu") == asked
    assert at_once(config, (128, 128), devices, "tpu") == asked
    in_patches = override(config, ["denoiser.patch_size=2"])
    assert at_once(in_patches, (64, 64), devices, "cpu") == found[32]


@pytest.mark.parametrize(("devices", "rows"), [(1, 1), (1, 5), (4, 4), (4, 12), (4, 6)])
def test_images_one_by_one_are_the_same_images(devices, rows):
    """Each row by its own content, whichever device it lies on."""
    mesh, seen = mesh_of(devices), []

    def encode(weight, image):
        seen.append(image.shape[0])
        return weight * image[:, :2, :2].astype(jnp.float32)

    image = np.random.default_rng(0).integers(0, 256, (rows, 4, 4, 3), np.uint8)
    found = jax.jit(in_parts(encode, mesh))(2.0, image)
    np.testing.assert_array_equal(found, 2.0 * image[:, :2, :2])
    # A row of each device at a time; where rows are not split evenly, all.
    assert set(seen) == {devices if rows % devices == 0 else rows}


def test_rows_stay_on_their_devices():
    mesh = mesh_of(4)
    encode = in_parts(lambda weight, image: weight * image.astype(jnp.float32), mesh)
    compiled = jax.jit(
        encode, in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=batch_sharding(mesh),
    )  # fmt: skip
    arguments = jnp.ones(()), np.zeros((12, 4, 4, 3), np.uint8)
    text = compiled.lower(*arguments).compile().as_text()
    assert "while" in text
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective", "all-red"))


def test_in_rounds_each_row_meets_its_own():
    """Of several arrays at once, as the coordinates ask for it."""
    a, b = np.arange(12.0).reshape(6, 2), np.arange(6.0)
    for devices in (None, 1, 2, 3, 4, 6):
        found = in_rounds(lambda x, y: x * y[:, None], devices, jnp.asarray(a), jnp.asarray(b))
        np.testing.assert_array_equal(found, a * b[:, None])
