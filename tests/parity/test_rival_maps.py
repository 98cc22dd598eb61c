"""Maps as other detectors' own code makes them: 1e-4 absolute, of float32 and float16 numbers."""

import numpy as np
import pytest

from invad_jax.metrics import pixel_metrics
from invad_jax.paradigms import published_maps
from tests.golden import nhwc

TOLERANCE = 1e-4


@pytest.fixture
def rivals(golden_dir):
    return golden_dir / "rivals"


@pytest.mark.parametrize("name", ["images", "comparison_128"])
def test_deco_diff(rivals, name):
    golden = np.load(rivals / "deco_diff" / f"{name}.npz")
    keys = ("decoded_input", "decoded_corrected", "encoded", "corrected")
    found = published_maps.deco_diff(*(nhwc(golden[key]) for key in keys))
    theirs = {
        "geometric": "anomaly_geometric", "arithmetic": "anomaly_aritmetic",
        "latent": "latent_discrepancy", "image": "image_discrepancy",
    }  # fmt: skip
    compared = [kind for kind, key in theirs.items() if f"map__{key}" in golden]
    assert {"geometric", "latent"} <= set(compared)
    for kind in compared:
        expected = golden[f"map__{theirs[kind]}"].reshape(found[kind].shape)
        np.testing.assert_allclose(found[kind], expected, atol=TOLERANCE)
    if "image_score" in golden:
        scores = np.max(found["geometric"], axis=(1, 2))
        np.testing.assert_allclose(scores, golden["image_score"], atol=TOLERANCE)


@pytest.mark.parametrize(("small", "large"), [("small", "large"), ("step", "step_large")])
def test_its_resize_is_scikit_images(rivals, small, large):
    golden = np.load(rivals / "deco_diff" / "resize.npz")
    x = golden[small]
    matrix = published_maps.mirrored_resize(len(x), len(golden[large]))
    np.testing.assert_allclose(matrix @ x @ matrix.T, golden[large], atol=1e-12)


def test_its_aupro_is_near_the_exact_one(rivals):
    """It has 200 thresholds between the ends of the map, ours all: one of them is 0.005."""
    golden = np.load(rivals / "deco_diff" / "their_aupro.npz")
    exact = pixel_metrics(golden["score"], golden["truth"].astype(bool))["aupro"]
    assert exact == pytest.approx(float(golden["aupro"]), abs=0.005)


def test_mad_ad(rivals):
    golden = np.load(rivals / "mad_ad" / "comparison.npz")
    found = published_maps.mad_ad(nhwc(golden["decoded_input"]), nhwc(golden["decoded_corrected"]))
    np.testing.assert_allclose(found[0], golden["anomaly_map"], atol=TOLERANCE)


def test_transfusion(rivals):
    golden = np.load(rivals / "transfusion" / "inference.npz")
    images = range(len(golden["x"]))
    probability = np.stack([nhwc(golden[f"image{i}__mask_probabilities"]) for i in images], axis=1)
    restored = np.stack([nhwc(golden[f"image{i}__states"][-1]) for i in images])
    found = published_maps.transfusion(nhwc(golden["x"]), restored, probability)
    np.testing.assert_allclose(found, golden["anomaly_map"], atol=TOLERANCE)
    np.testing.assert_allclose(np.max(found, (1, 2)), golden["image_score"], atol=TOLERANCE)


def test_diad(rivals):
    golden = np.load(rivals / "diad" / "comparison_256.npz")
    pairs = [
        [nhwc(golden[f"{side}_features{k}"]) for k in range(3)] for side in ("input", "output")
    ]
    smooth, score = published_maps.diad(*pairs, 256)
    np.testing.assert_allclose(smooth[0], golden["smoothed"], atol=TOLERANCE)
    assert score[0] == pytest.approx(golden["image_score"], abs=TOLERANCE)
    assert len(published_maps.repeated_mean(256, 8, 8)) == golden["pooled_shape"][-1]


def test_filters_are_scipys():
    ndimage = pytest.importorskip("scipy.ndimage")
    x = np.random.default_rng(0).standard_normal((9, 9))
    for matrix, expected in (
        (published_maps.gaussian(9, 3.0), ndimage.gaussian_filter(x, 3.0)),  # wider than the image
        (published_maps.box(9, 7), ndimage.uniform_filter(x, 7, mode="constant")),
    ):
        np.testing.assert_allclose(matrix @ x @ matrix.T, expected, atol=1e-12)
