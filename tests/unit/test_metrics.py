"""What the metrics promise beside their values, which tests/parity compares with oracles."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invad_jax import metrics
from tests.tracing import traced

NONE = dict.fromkeys(metrics.PIXEL_METRICS)


def category(seed=0, count=8, side=12):
    """Scores that tie often, half of the images anomalous, one square region each."""
    rng = np.random.default_rng(seed)
    gt_label = np.arange(count) % 2
    gt_mask = np.zeros((count, side, side), bool)
    gt_mask[1::2, 2:5, 3:9] = True
    anomaly_map = np.float32(rng.integers(0, 20, gt_mask.shape) + 6 * gt_mask)
    return anomaly_map.max(axis=(1, 2)) + rng.random(count), gt_label, anomaly_map, gt_mask


def category_metrics(image_score, gt_label, anomaly_map=None, gt_mask=None):
    """All metrics of one category; where no mask is known, without those of pixels."""
    pixel = NONE
    if gt_mask is not None:
        pixel = metrics.pixel_metrics(anomaly_map, gt_mask)
    return metrics.combine(metrics.image_metrics(image_score, gt_label), pixel, gt_label)


def test_by_hand():
    """Two regions of 1 and 2 pixels, five normal pixels, one of which outranks half a region."""
    anomaly_map = np.float32([[[9, 1, 1, 8], [1, 1, 7, 6]]])
    gt_mask = np.array([[[1, 0, 0, 1], [0, 0, 0, 1]]], bool)
    found = metrics.pixel_metrics(anomaly_map, gt_mask)
    # order 9+ 8+ 7- 6+ 1----; overlap at fpr 0: (1 + 1/2) / 2 = 3/4, from fpr 1/5 on: 1
    assert found["p_auroc"] == pytest.approx(14 / 15, abs=1e-12)
    assert found["p_ap"] == pytest.approx((1 + 1 + 3 / 4) / 3, abs=1e-12)
    assert found["p_f1_max"] == pytest.approx(2 * 3 / (4 + 3), abs=1e-12)
    assert found["aupro"] == pytest.approx((0.2 * 0.75 + 0.1 * 1) / 0.3, abs=1e-12)  # rounding


def test_perfect_and_worthless():
    _, _, _, gt_mask = category()
    perfect = metrics.pixel_metrics(gt_mask.astype(np.float32), gt_mask)
    assert perfect == dict.fromkeys(metrics.PIXEL_METRICS, 1.0)
    constant = metrics.pixel_metrics(np.zeros(gt_mask.shape, np.float32), gt_mask)
    share = gt_mask.mean()
    expected = {"p_auroc": 0.5, "p_ap": share, "p_f1_max": 2 * share / (1 + share), "aupro": 0.15}
    assert constant == pytest.approx(expected, abs=1e-12)  # rounding


@settings(max_examples=30, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from([np.exp, np.cbrt, lambda x: 4 * x - 64]))
def test_invariant_under_rising_transforms(seed, rising):
    """Ranks alone matter; float64 keeps the 26 distinct values distinct and ties equal."""
    image_score, gt_label, anomaly_map, gt_mask = category(seed)
    wide = anomaly_map.astype(np.float64)
    assert category_metrics(
        rising(image_score), gt_label, rising(wide), gt_mask
    ) == category_metrics(image_score, gt_label, anomaly_map, gt_mask)


def test_the_order_of_images_does_not_matter():
    order = np.random.default_rng(1).permutation(8)
    ours, theirs = (category_metrics(*a) for a in (category(), (x[order] for x in category())))
    assert dataclasses.asdict(ours) == pytest.approx(dataclasses.asdict(theirs), abs=1e-12)  # sums


def test_category_has_all_seven_and_their_mean():
    row = dataclasses.asdict(category_metrics(*category()))
    seven = [row[name] for name in (*metrics.IMAGE_METRICS, *metrics.PIXEL_METRICS)]
    assert row["mad"] == pytest.approx(np.mean(seven), abs=1e-12)  # rounding
    assert (row["n_normal"], row["n_anomalous"]) == (4, 4)


@pytest.mark.parametrize("masks", [0, None])
def test_without_any_mask_pixel_metrics_are_absent(masks):
    image_score, gt_label, anomaly_map, gt_mask = category()
    pixel = () if masks is None else (anomaly_map[:masks], gt_mask[:masks])
    row = category_metrics(image_score, gt_label, *pixel)
    assert {name: getattr(row, name) for name in NONE} == NONE
    assert row.mad is None
    assert row.i_ap is not None


@pytest.mark.parametrize("value", [False, True])
def test_one_class_only(value):
    image_score, gt_label, anomaly_map, gt_mask = category()
    row = category_metrics(
        image_score, np.full_like(gt_label, value), anomaly_map, np.full_like(gt_mask, value)
    )
    values = dataclasses.asdict(row)
    assert (values.pop("n_normal"), values.pop("n_anomalous")) == ((0, 8) if value else (8, 0))
    assert set(values.values()) == {None}


def test_no_image_is_no_metric():
    empty = category_metrics(
        np.zeros(0), np.zeros(0, int), np.zeros((0, 4, 4), np.float32), np.zeros((0, 4, 4), bool)
    )
    assert (empty.i_auroc, empty.aupro, empty.n_normal) == (None, None, 0)


def test_pixel_metrics_are_shared_by_two_image_scores():
    image_score, gt_label, anomaly_map, gt_mask = category()
    pixel = metrics.pixel_metrics(anomaly_map, gt_mask)
    for score in (image_score, -image_score):
        assert metrics.combine(
            metrics.image_metrics(score, gt_label), pixel, gt_label
        ) == category_metrics(score, gt_label, anomaly_map, gt_mask)


def test_aupro_is_the_area_under_the_curve_that_is_drawn():
    _, _, anomaly_map, gt_mask = category()
    found, curve = metrics.pixel_metrics_of(lambda: [(anomaly_map, gt_mask, None)], points=20_001)
    # The trapezoid rule over 20,000 steps: each of the polygon's corners is off by a step at most.
    area = np.trapezoid(curve.overlap, curve.fpr) / 0.3
    assert area == pytest.approx(found["aupro"], abs=1e-3)
    assert (curve.fpr[0], curve.fpr[-1]) == (0, 0.3)
    assert (np.diff(curve.overlap) >= 0).all()


def test_mean_skips_what_a_category_lacks():
    full = category_metrics(*category(0))
    image_score, gt_label, *_ = category(1)
    bare = category_metrics(image_score, gt_label)
    mean = metrics.mean_over_categories({"full": full, "bare": bare})
    assert mean.i_auroc == pytest.approx((full.i_auroc + bare.i_auroc) / 2, abs=1e-12)  # rounding
    assert (mean.aupro, mean.mad) == (full.aupro, full.mad)
    assert (mean.n_normal, mean.n_anomalous) == (8, 8)
    assert metrics.mean_over_categories({"bare": bare}).aupro is None
    with pytest.raises(ValueError, match="no category"):
        metrics.mean_over_categories({})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    image_score, gt_label, anomaly_map, gt_mask = category()
    image_score[2] = anomaly_map[1, 1, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        metrics.image_metrics(image_score, gt_label)
    with pytest.raises(ValueError, match="NaN or infinite"):
        metrics.pixel_metrics(anomaly_map, gt_mask)


def test_other_misuse_is_refused():
    image_score, gt_label, anomaly_map, gt_mask = category()
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.image_metrics(image_score[1:], gt_label)
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.pixel_metrics(anomaly_map, gt_mask[..., 1:])
    with pytest.raises(ValueError, match="other than 0 and 1"):
        metrics.image_metrics(image_score, gt_label - 1)
    for limit in (0, 1.5, np.nan):
        with pytest.raises(ValueError, match="fpr_limit"):
            metrics.pixel_metrics(anomaly_map, gt_mask, fpr_limit=limit)


def test_inputs_are_left_as_they_were():
    arrays = category()
    copies = [array.copy() for array in arrays]
    category_metrics(*arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_a_large_category_is_sorted_once_and_memory_is_bounded(monkeypatch):
    """The cost in elements sorted and bytes held, which no load of the machine changes."""
    rng = np.random.default_rng(0)
    anomaly_map = rng.standard_normal((32, 256, 256), dtype=np.float32)
    gt_mask = np.zeros(anomaly_map.shape, bool)
    gt_mask[:16, 50:100, 50:100] = True
    labelled = []
    label = metrics.ndimage.label
    monkeypatch.setattr(
        metrics.ndimage, "label", lambda mask, *a: labelled.append(mask.shape) or label(mask, *a)
    )
    argsorted = []
    argsort = np.argsort
    monkeypatch.setattr(np, "argsort", lambda x: argsorted.append(x.size) or argsort(x))
    with traced() as memory:
        metrics.pixel_metrics(anomaly_map, gt_mask)
        peak = memory.peak
    n_anomalous = int(gt_mask.sum())
    assert argsorted == [n_anomalous]  # the costly kind of sort sees anomalous pixels only
    assert labelled == [(256, 256)] * 16  # and one labelling an image that has a region
    # the module's promise, with a tenth to spare for temporaries of the allocator
    assert peak < 1.1 * (11 * gt_mask.size + 110 * n_anomalous)


@pytest.mark.parametrize("images", [1, 2, 3, 7])
def test_pixels_in_parts_give_the_same_to_the_last_bit(monkeypatch, images):
    rng = np.random.default_rng(3)
    anomaly_map = rng.standard_normal((8, 12, 12), dtype=np.float32)
    anomaly_map[::3] = np.round(anomaly_map[::3])  # ties within parts and between them
    gt_mask = category()[3]
    known = np.array([0, 1, 3, 4, 6, 7])

    def parts():
        for some in metrics.in_parts(known, 144):
            yield anomaly_map[some], gt_mask[some], None

    whole, curve = metrics.pixel_metrics_of(parts)
    monkeypatch.setattr(metrics, "PART", images * 144)
    seen = []
    monkeypatch.setattr(metrics, "_check", lambda score, _: seen.append(len(score)))
    found, its_curve = metrics.pixel_metrics_of(parts)
    assert seen == [images] * (6 // images) + [6 % images] * (6 % images > 0)
    assert found == whole
    np.testing.assert_array_equal(its_curve.overlap, curve.overlap)


def test_memory_does_not_grow_with_the_normal_images(monkeypatch):
    """Counted in bytes: what grows is what is anomalous."""
    monkeypatch.setattr(metrics, "PART", 4 * 64**2)
    peaks, rng = [], np.random.default_rng(0)
    some = rng.standard_normal((4, 64, 64), dtype=np.float32)
    marked = np.zeros(some.shape, bool)
    marked[0, :20, :20] = True
    for count in (10, 100):

        def parts(count=count):
            for i in range(count):
                yield some.copy(), marked.copy() if i < 10 else np.zeros_like(marked), None

        with traced() as memory:
            metrics.pixel_metrics_of(parts)
            peaks.append(memory.peak)
    # two parts: the generator holds one while the next is made
    assert peaks[1] < 1.1 * (2 * 11 * some.size + 110 * 4000)
    assert peaks[1] < 1.05 * peaks[0]  # the empty arrays of weights
