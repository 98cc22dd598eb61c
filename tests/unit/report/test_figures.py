"""Pictures: where heat lies, and that the same case gives the same bytes."""

import dataclasses

import matplotlib
import numpy as np
import pytest
from PIL import Image

from invad_jax.report import figures


def make_image(height=24, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_case(**changes):
    mask = np.zeros((24, 32), bool)
    mask[4:10, 6:12] = True
    values = {
        "path": "test/crack/003.png", "category": "bottle", "defect": "broken_large", "gt_label": 1,
        "image": make_image(), "gt_mask": mask,
        "anomaly_map": np.where(mask, 30, 2).astype(np.float32),
        "image_score": 12.34, "terms": {"nll": 100.0, "map_range": 28.0},
        "threshold": 3.0, "heat": (15.0, 23.0), "decision": True,
    }  # fmt: skip
    return figures.Case(**{**values, **changes})


def test_overlay_leaves_normal_pixels_untouched_and_marks_the_others():
    image = make_image()
    anomaly_map = np.zeros(image.shape[:2], np.float32)
    anomaly_map[5:9, 7:11] = 10
    marked = figures.overlay(image, anomaly_map, low=1.0, high=5.0)
    hot = anomaly_map > 1
    assert marked.dtype == np.uint8
    np.testing.assert_array_equal(marked[~hot], image[~hot])
    # Full heat is 70 % of one bright yellow, whose red and green exceed its blue by 200: by
    # at least 140 - 77 in all, whatever lies below.
    assert (marked[hot].astype(int)[:, :2] - marked[hot].astype(int)[:, 2:] > 60).all()


def test_overlay_exactly_at_low_is_untouched():
    image = make_image()
    level = np.full((3, 4), 1.5, np.float32)
    np.testing.assert_array_equal(figures.overlay(image, level, low=1.5, high=2.0), image)


def test_overlay_grows_with_the_excess():
    black = np.zeros((1, 64, 3), np.uint8)
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None]
    luma = figures.overlay(black, ramp, low=0.0, high=1.0)[0] @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) > -1).all()  # 8-bit rounding of three channels: under one level
    assert luma[-1] > luma[16] + 50 > luma[0] + 50


@pytest.mark.parametrize("low", [0.0, 0.5, 1.2])
def test_overlay_is_the_blend_in_real_numbers(low):
    image, level = make_image(), np.random.default_rng(1).random((24, 32), np.float32)
    heat = np.clip((level - low) / (1.5 - low), 0, 1)[..., None]
    colour = matplotlib.colormaps["plasma"](0.45 + 0.55 * heat[..., 0])[..., :3] * 255
    opacity = np.where(heat > 0, 0.35 + 0.35 * np.sqrt(heat), 0)
    expected = (1 - opacity) * image + opacity * colour
    # A colour of 256, an opacity of 256 (0.022 apart at the foot of the root), and rounding.
    found = figures.overlay(image, level, low, 1.5).astype(float)
    np.testing.assert_allclose(found, expected, atol=1.5 + 0.022 * 255)
    assert np.abs(found - expected).mean() < 1


def test_overlay_resizes_the_map_bilinearly_with_half_pixel_centres():
    gray = np.full((8, 8, 3), 100, np.uint8)
    coarse = np.array([[0, 1], [0, 1]], np.float32)
    # Half-pixel centres: 2 columns become 0, 0, 1/8, 3/8, 5/8, 7/8, 1, 1 of 8.
    fine = np.tile(np.float32([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]), (8, 1))
    np.testing.assert_array_equal(
        figures.overlay(gray, coarse, 0.0, 1.0), figures.overlay(gray, fine, 0.0, 1.0)
    )
    np.testing.assert_array_equal(figures.overlay(gray, coarse, 0.2, 1.0)[:, :3], gray[:, :3])


def test_a_map_that_stays_where_normal_ones_do_gets_no_heat():
    case = make_case(anomaly_map=np.linspace(0, 15, 24 * 32, dtype=np.float32).reshape(24, 32))
    np.testing.assert_array_equal(figures.tiles(case)["heat map"], case.image)


def test_contour_surrounds_the_ground_truth_and_covers_none_of_it():
    case = make_case()
    drawn = figures.contour(case.image, case.gt_mask)
    changed = (drawn != case.image).any(axis=2)
    assert not changed[case.gt_mask].any()
    assert changed[3, 6:12].all()
    assert changed[4:10, 12].all()
    assert (drawn[changed] == [0, 255, 255]).all()


def test_contour_of_a_small_mask_on_a_large_image():
    mask = np.array([[False, True], [False, False]])
    drawn = figures.contour(np.zeros((10, 20, 3), np.uint8), mask)
    assert (drawn[:5, 10:] == 0).all()
    assert drawn[0, 9].tolist() == drawn[5, 10].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    ("changes", "titles"),
    [
        ({}, ["image", "ground truth", "heat map"]),
        ({"gt_mask": None}, ["image", "heat map"]),
        ({"gt_mask": np.zeros((24, 32), bool), "gt_label": 0}, ["image", "heat map"]),
    ],
)
def test_ground_truth_is_shown_where_it_marks_something(changes, titles):
    assert list(figures.tiles(make_case(**changes))) == titles


@pytest.mark.parametrize(
    ("gt_label", "decision", "verdict"),
    [
        (1, True, "found"), (1, False, "missed"), (0, True, "false alarm"), (0, False, "passed"),
        (None, True, "anomalous"), (None, False, "normal"),
    ],
)  # fmt: skip
def test_verdicts(gt_label, decision, verdict):
    assert make_case(gt_label=gt_label, decision=decision).verdict == verdict


def test_panel_holds_the_pictures_side_by_side_above_the_caption():
    case = make_case()
    panel = np.asarray(figures.case_panel(case))
    for i, picture in enumerate(figures.tiles(case).values()):
        left = 8 + i * (32 + 8)
        np.testing.assert_array_equal(panel[8 : 8 + 24, left : left + 32], picture)
    assert (panel[8 + 24 + 8 :] != 255).any()


@pytest.mark.parametrize(
    "name",
    [
        "a$b_{c}$.png", "日本語.png", "x" * 300 + ".png", "bad-\udcff.png", "two\nlines.png",
        "a\u2028b\rc\0d.png", "\n" * 100, "🌰.png",
    ],
)  # fmt: skip
def test_panel_copes_with_any_name(name):
    assert figures.case_panel(make_case(path=name)).width == 3 * 40 + 8


def test_examples_explain_themselves_and_replace_those_of_before(tmp_path):
    cases = [
        make_case(),
        make_case(path="other/003.png"),
        make_case(path="good/a b.png", defect="good", gt_label=0, image_score=5.0),
    ]
    (tmp_path / "notes.txt").write_text("the user's")
    old = figures.write_examples(tmp_path, [make_case(decision=False)])
    assert [path.relative_to(tmp_path).as_posix() for path in old] == [
        "missed/bottle_broken_large_003_score_12.3.png"
    ]
    figures.write_examples(tmp_path, cases)
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert found == [
        "false_alarm/bottle_good_a-b_score_5.0.png",
        "found/bottle_broken_large_003_score_12.3.png",
        "found/bottle_broken_large_003_score_12.3_2.png",
        "notes.txt",
    ]


@pytest.mark.parametrize(("name", "shown"), [("日.png", r"\u65e5.png"), ("a\nb.png", r"a\nb.png")])
def test_what_the_font_lacks_shows_as_its_code(name, shown):
    """Not as the same empty box for every character."""
    panels = [np.asarray(figures.case_panel(make_case(path=p))) for p in (name, shown)]
    np.testing.assert_array_equal(*panels)


def test_examples_of_long_names_and_of_names_that_differ_by_case(tmp_path):
    cases = [
        make_case(category="日" * 90, defect="ä" * 90),
        make_case(category="Nut"), make_case(category="nut"), make_case(category="../../nut"),
    ]  # fmt: skip
    written = figures.write_examples(tmp_path, cases)
    assert all(path.is_file() and path.parent == tmp_path / "found" for path in written)
    assert len({path.name.lower() for path in written}) == 4


def test_pictures_are_the_same_every_time(tmp_path):
    first, second = (figures.write_examples(tmp_path / name, [make_case()])[0] for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_overlay_file_has_the_size_of_the_image_and_its_colours(tmp_path):
    smooth = np.asarray(Image.fromarray(make_image(5, 7)).resize((70, 50)))
    case = dataclasses.replace(make_case(), image=smooth)
    path = tmp_path / "sub" / "o.jpg"
    figures.write_overlay(path, Image.fromarray(case.image), case.anomaly_map, case.heat)
    with Image.open(path) as written:
        assert (written.size, written.format) == ((70, 50), "JPEG")
        expected = figures.overlay(case.image, case.anomaly_map, *case.heat)
        difference = np.abs(np.asarray(written).astype(int) - expected)
    # JPEG at 90 of 100 quantises in steps of at most 24; in the mean, what nobody sees.
    assert difference.mean() < 2.5
    assert difference.max() < 40
