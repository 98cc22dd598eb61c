"""Pages as people see them: in a browser, wide and narrow, with names that would be code."""

import re

import numpy as np
import pytest
from PIL import Image

from invad_jax.metrics import PerRegionOverlap
from tests import browser
from tests.unit.report.test_page_and_tables import (
    CALIBRATION,
    HOSTILE,
    METRICS,
    make_case,
    score_row,
    write_page,
)

WIDE, NARROW = (1280, 900), (390, 844)
LONG = "/line/" + "camera" * 30
NO_SIDEWAYS = (
    "document.documentElement.scrollWidth <= document.documentElement.clientWidth ? 'fits' : 'wide'"
)
COUNTS = "[...document.querySelectorAll('#decisions tfoot td')].map(c => c.textContent).join()"
OUTPUT = "document.querySelector('#gallery output').textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Four categories of 4 + 6 images, scores 0..9 around a threshold, all named by an enemy."""
    browser.require()
    folder = tmp_path_factory.mktemp("pages")
    rng, rows, cases = np.random.default_rng(0), [], []
    for category in ("nut", "pin", LONG, HOSTILE):
        for i in range(10):
            score, label = CALIBRATION.threshold + i - 4.5, int(i >= 4)
            path, decision = f"{LONG}/{category}/{HOSTILE}{i}.png", score > CALIBRATION.threshold
            named = {"path": path, "category": category, "defect": HOSTILE, "gt_label": label}
            word = "anomalous" if decision else "normal"
            rows.append(score_row(**named, image_score_calibrated=score, decision=word))
            if i in (3, 4, 5):
                image = rng.integers(0, 256, (90, 160, 3), np.uint8)
                mask = None if not label else make_case().gt_mask
                cases.append(make_case(**named, image=image, gt_mask=mask, image_score=score,
                                       decision=bool(decision)))  # fmt: skip
    table = dict.fromkeys(("nut", "pin", LONG, HOSTILE), METRICS["fusion"]["calibrated"]["mean"])
    mean = {"categories": table, "mean": METRICS["fusion"]["calibrated"]["mean"]}
    write_page(
        folder / "report.html", rows, cases,
        METRICS | {"fusion": {"calibrated": mean, "test_minmax": mean}},
        title=f"{LONG}: {HOSTILE}", normals={"": np.arange(20) / 10},
        pro={"nut": PerRegionOverlap(np.linspace(0, 0.3, 5), np.linspace(0, 1, 5))},
    )  # fmt: skip
    return folder / "report.html"


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_page_is_drawn_without_a_word_on_the_console(page, size, tmp_path):
    charts = "[...document.querySelectorAll('svg')].filter(s => s.querySelector('path')).length"
    code = "document.querySelectorAll('main script, header script').length + ' scripts'"
    picture = tmp_path / "look.png"
    seen = browser.look(page, NO_SIDEWAYS, charts, code, size=size, picture=picture)
    assert seen.console == []
    assert seen.values == ["fits", 6, "0 scripts"]  # score, two terms; ROC, PR and PRO
    assert len(np.unique(np.asarray(Image.open(picture)).reshape(-1, 3), axis=0)) > 10


def test_names_stay_text(page):
    titles = "[...document.querySelectorAll('.kind, #decisions th')].map(e => e.textContent).join()"
    enlarged = (
        "document.querySelector('article').click(), document.querySelector('p.path').textContent"
    )
    seen = browser.look(page, titles, enlarged, size=WIDE)
    assert seen.console == []
    assert all(HOSTILE in value for value in seen.values)


def test_a_moved_threshold_changes_every_count_and_mark(page):
    def move(by):
        return f"document.querySelector('#shift').value = {by}, shift.oninput(), 1"

    changed = "document.querySelector('#state').textContent.includes('moved') ? {} : null"
    marks = "[...document.querySelectorAll('mark')].map(mark => mark.textContent).sort().join()"
    alarms = "document.querySelector('[data-total=\"false alarm\"]').textContent"
    seen = browser.look(
        page, COUNTS, marks, move(-2), changed.format(COUNTS), marks, alarms,
        "document.querySelector('#reset').click(), 1",
        f"document.querySelector('#reset').disabled ? {COUNTS} : null", size=WIDE,
    )  # fmt: skip
    before, marked, _, after, remarked, false_alarms, _, back = seen.values
    # Of each category: 4 normal images below the threshold, one anomalous below it, 5 above.
    assert before == back == "20,4,16,0,16.7 %,0.0 %"
    assert marked == ",".join(["found"] * 4 + ["missed"] * 4 + ["passed"] * 4)
    # Two lower: all anomalous ones are found, and the two highest normals are false alarms.
    assert after == "24,0,12,4,0.0 %,25.0 %"
    assert remarked == ",".join(["false alarm"] * 4 + ["found"] * 8)
    assert false_alarms == "4"
    assert seen.console == []


def test_filters_say_how_many_of_how_many_are_shown(page):
    def choose(name, value):
        field = f"document.querySelector('#gallery [name={name}]')"
        return f"{field}.value = '{value}', {field}.form.onchange(), {OUTPUT}"

    seen = browser.look(
        page, OUTPUT, choose("verdict", "mistakes"), choose("category", "1"), size=WIDE
    )
    assert re.match(r"12 of 40 shown; this page holds pictures of 12 images", seen.values[0])
    assert seen.values[1:] == ["4 of 4 shown", "1 of 1 shown"]


def test_a_case_is_enlarged_in_its_proportions_by_the_keyboard_alone(page):
    card = "document.querySelectorAll('article')[0]"
    key = "new KeyboardEvent('keydown', {{key: '{}', bubbles: true}})"
    name = "document.querySelector('dialog .path').textContent"
    sides = "const s = document.querySelector('dialog .stack').getBoundingClientRect();"
    seen = browser.look(
        page, f"{card}.focus(), {card}.dispatchEvent({key.format('Enter')}), {name}",
        f"document.querySelector('dialog').dispatchEvent({key.format('ArrowRight')}), {name}",
        f"{sides} (s.width / s.height).toFixed(2)", size=NARROW,
    )  # fmt: skip
    first, second, ratio = seen.values
    assert first != second
    assert float(ratio) == pytest.approx(160 / 90, abs=0.02)
    assert seen.console == []
