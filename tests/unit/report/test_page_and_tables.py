"""Files, table and page: the contract of their columns, and pages that load nothing."""

import base64
import csv
import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.normality import calibration
from invad_jax.normality.calibrations import Calibrations
from invad_jax.report import content, decisions, page, tables
from invad_jax.report.figures import Case
from invad_jax.report.tables import decision_word

HOSTILE = '<script>alert("1")</script>&\'x'
ROW = {
    "i_auroc": 0.1 + 0.2, "i_ap": 1.0, "i_f1_max": 0.5, "p_auroc": None, "p_ap": None,
    "p_f1_max": None, "aupro": None, "mad": None, "n_normal": 3, "n_anomalous": 4,
}  # fmt: skip
TABLE = {"categories": {"nut": ROW, HOSTILE: ROW}, "mean": ROW}
METRICS = {
    "schema": 1, "published": True, "step": 7, "nfe": 3, "seed": 5, "config_hash": "abc",
    "paradigm": "mad_ad", "precision": "float32", "objective": "masked", "versions": {"jax": "0.1"},
    "device": {"platform": "cpu", "kind": "toy", "count": 2},
    "masks": {"nut": {"with": 2, "without": 3}, HOSTILE: {"with": 1, "without": 0}},
    "unreadable": ["cut.png", HOSTILE],
    "fusion": {"calibrated": TABLE, "test_minmax": TABLE},
    "speed": {
        "batch_size": 16, "images_per_second": 12.5,
        "latency_ms_batch1": {"p50": 41.0, "p95": 50.0},
    },
}  # fmt: skip
TERM = {"nll": np.arange(20.0), "map_range": np.arange(20.0)}
CALIBRATION = calibration.fit(TERM, ("nll", "map_range"), (12.0, 20.0), 0.1, held_out=True)
CALIBRATIONS = Calibrations(("",), (CALIBRATION,))


def score_row(**changes):
    return {
        "path": "a,b.png", "category": "nut", "defect": "crack", "gt_label": 1, "nll": 1 / 3,
        "map_range": 2.0, "map_mean": 1.0, "map_max": 3.0, "map_top": 2.5, "component": "",
        "image_score_calibrated": 4.0, "image_score_test_minmax": 1e-300,
        "threshold": CALIBRATION.threshold, "decision": "anomalous", **changes,
    }  # fmt: skip


def make_case(**changes):
    mask = np.zeros((16, 16), bool)
    mask[2:6, 3:7] = True
    values = {
        "path": "nut.png", "category": "nut", "defect": "crack", "gt_label": 1,
        "image": np.full((16, 16, 3), 90, np.uint8), "gt_mask": mask,
        "anomaly_map": np.where(mask, 90, 1).astype(np.float32), "image_score": 4.0,
        "terms": {"nll": 1.0, "map_range": 2.0}, "threshold": CALIBRATION.threshold,
        "heat": CALIBRATION.heat, "decision": True,
    }  # fmt: skip
    return Case(**{**values, **changes})


def read_csv(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        header, *rows = list(csv.reader(stream))
    return header, [dict(zip(header, row, strict=True)) for row in rows]


def write_page(path, rows, cases, metrics, **changes):
    arguments = {"title": "T", "command": "python -m x", "config": {"data": {"root": "r"}}}
    arguments["calibrations"] = CALIBRATIONS
    page.write_html(
        path,
        **{**arguments, **changes},
        rows=rows,
        cases=cases,
        metrics=metrics,
    )
    return path.read_text(encoding="utf-8")


def test_scores_csv_has_the_columns_of_the_contract_and_every_digit(tmp_path):
    tables.write_scores_csv(tmp_path / "s.csv", [score_row(nll=np.float64(1 / 3), extra=1)])
    header, [row] = read_csv(tmp_path / "s.csv")
    assert header == [
        "path", "category", "defect", "gt_label", "nll", "map_range", "map_mean", "map_max",
        "map_top", "component", "image_score_calibrated", "image_score_test_minmax", "threshold",
        "decision",
    ]  # fmt: skip
    assert float(row["nll"]) == 1 / 3
    assert float(row["image_score_test_minmax"]) == 1e-300
    assert row["path"] == "a,b.png"
    assert row["gt_label"] == "1"


PATH = b"part-\xff.png".decode(errors="surrogateescape")
REGIONS = [
    dict(zip(tables.REGION_COLUMNS, (4, 1, 8, 2, 9, 5.5), strict=True)),
    dict(zip(tables.REGION_COLUMNS, (0, 0, 1, 1, 1, 3.5), strict=True)),
]
PREDICTION = {
    "path": PATH, "image_score": 0.1, "threshold": 2.0, "decision": "normal", "component": "nut",
    "normal_percentile": 50.0, "regions": REGIONS, "overlay": "o.png", "error": "",
    "terms": {"map_top": 3.0},
}  # fmt: skip


def test_predictions_come_one_by_one_and_keep_a_name_that_is_not_unicode(tmp_path):
    stream = tables.PredictionStream(tmp_path / "p.csv", "csv")
    stream.write(PREDICTION)
    assert b"part-\xff.png" in (tmp_path / "p.csv").read_bytes()  # before it is closed
    stream.write({**PREDICTION, "regions": []})
    header, rows = read_csv(tmp_path / "p.csv")
    stream.close()
    assert header == [
        "path", "image_score", "threshold", "decision", "component", "normal_percentile",
        "regions", "left", "top", "width", "height", "area", "peak", "overlay", "error",
    ]  # fmt: skip
    flat = {name: value for name, value in PREDICTION.items() if name != "terms"}
    expected = flat | {"regions": 2} | REGIONS[0]
    assert rows[0] == {name: str(value) for name, value in expected.items()}
    assert (rows[1]["regions"], rows[1]["peak"]) == ("0", "")


def test_predictions_as_json_lines(tmp_path):
    stream = tables.PredictionStream(tmp_path / "p.jsonl", "jsonl")
    stream.write(PREDICTION)
    stream.close()
    (line,) = (tmp_path / "p.jsonl").read_text().splitlines()
    assert json.loads(line) == PREDICTION


def test_a_row_without_a_column_leaves_the_old_file_as_it_was(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("old")
    stream = tables.PredictionStream(path, "csv")
    with pytest.raises(KeyError, match="decision"):
        stream.write({"path": "a", "image_score": 1, "threshold": 2, "regions": []})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_is_one_line(tmp_path):
    stream = tables.PredictionStream("/dev/full", "jsonl")
    with pytest.raises(UserError, match="cannot be written: No space left"):
        stream.write(PREDICTION)


def test_metrics_csv_has_every_category_and_the_mean_of_both_fusions(tmp_path):
    tables.write_metrics_csv(tmp_path / "m.csv", METRICS["fusion"])
    _, rows = read_csv(tmp_path / "m.csv")
    assert [(row["fusion"], row["category"]) for row in rows] == [
        (kind, category)
        for kind in ("calibrated", "test_minmax")
        for category in ("nut", HOSTILE, "mean")
    ]
    assert float(rows[0]["i_auroc"]) == 0.1 + 0.2
    assert rows[0]["aupro"] == ""
    assert set(rows[0]) == {"fusion", "category", *ROW}


def test_metrics_json_has_null_and_refuses_nan(tmp_path):
    path = tmp_path / "metrics.json"
    files.write_json(path, METRICS)
    assert json.loads(path.read_text()) == METRICS
    assert '"aupro": null' in path.read_text()
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"i_auroc": float("nan")})
    assert json.loads(path.read_text()) == METRICS


def test_table_is_aligned_in_percent_with_dashes():
    lines = tables.format_table({"categories": {"nut": ROW, "longer_name": ROW}, "mean": ROW})
    header, rule, *body = lines.splitlines()
    assert header.split() == [
        "category", "n_normal", "n_anomalous", "i_auroc", "i_ap", "i_f1_max", "p_auroc", "p_ap",
        "p_f1_max", "aupro", "mad",
    ]  # fmt: skip
    assert body[0].split() == ["nut", "3", "4", "30.0", "100.0", "50.0", *"-----"]
    assert body[-1].split()[0] == "mean"
    assert body[-2] == rule
    assert {len(line) for line in (header, rule, *body)} == {len(rule)}


class Reader(HTMLParser):
    """Elements by name, and what attributes and styles point at."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.references, self.text, self.open = [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "poster", "action", "data"):
                self.references.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def find(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def evaluation_page(path, **changes):
    rows = [
        score_row(path="nut.png"), score_row(path="miss.png", decision="normal"),
        score_row(path="pass.png", gt_label=0, decision="normal"),
        score_row(path="alarm.png", gt_label=0, category="aa"),
    ]  # fmt: skip
    cases = [
        make_case(path="miss.png", image_score=-9.0, decision=False),
        make_case(path="alarm.png", gt_label=0, gt_mask=None, category="aa"),
        make_case(),
        make_case(path="pass.png", gt_label=0, gt_mask=None, image_score=-5.0, decision=False),
    ]
    return write_page(path, rows, **{"cases": cases, "metrics": METRICS, **changes})


def known(text):
    """What the script of a page reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def test_page_loads_nothing_from_elsewhere(tmp_path):
    text = evaluation_page(tmp_path / "report.html")
    reader = Reader(text)
    assert reader.open == []
    assert reader.references
    assert all(reference.startswith(("data:image/", "#")) for reference in reader.references)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|WebSocket|\bimport\b", text)
    assert [script.get("type") for script in reader.find("script")] == ["application/json", None]
    assert not reader.find("link")


def test_page_shows_the_cases_in_their_order_with_their_pictures(tmp_path):
    reader = Reader(evaluation_page(tmp_path / "report.html"))
    cards = reader.find("article")
    assert [card["data-verdict"] for card in cards] == ["missed", "false alarm", "found", "passed"]
    assert [card["data-image"] for card in cards] == ["1", "3", "0", "2"]
    titles = [image["alt"] for image in reader.find("img")]
    assert titles == [
        "image", "heat map", "ground truth",
        "image", "heat map",
        "image", "heat map", "ground truth",
        "image", "heat map",
    ]  # fmt: skip


def test_a_photograph_keeps_its_proportions(tmp_path):
    text = evaluation_page(
        tmp_path / "r.html", cases=[make_case(image=np.zeros((90, 160, 3), "u1"))]
    )
    assert "aspect-ratio:160/90" in text
    uri = Reader(text).find("img")[0]["src"]
    photograph = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert photograph.size == (160, 90)


def test_page_counts_errors_and_names_the_fusions(tmp_path):
    reader = Reader(evaluation_page(tmp_path / "report.html"))
    assert "missed1of 2 anomalous" in reader.text
    assert "false alarms1of 2 normal" in reader.text
    assert "image AUROC30.0 %" in reader.text
    assert "pixel AUROC" not in reader.text  # there are no masks: the number does not exist
    assert "calibrated: scaled by normal images alone (inductive" in reader.text
    assert "test_minmax: the paper's, scaled by this test set (transductive" in reader.text
    assert "without a mask: 3 of nut." in reader.text
    assert f"cut.png: left out of every number{HOSTILE}: left out of" in reader.text


def test_a_category_that_is_missed_stands_at_the_head_in_large_letters(tmp_path):
    rows = [score_row(decision="normal", path=f"{i}.png") for i in range(32)]
    text = evaluation_page(tmp_path / "r.html", cases=[])
    assert 'role="alert"' in text  # one of two is missed
    text = write_page(tmp_path / "s.html", rows, [], METRICS)
    head = text.index("nut: missed 32 of 32 anomalous images")
    assert text.index('role="alert"') < head < text.index('class="figures"')
    found = [score_row(path=f"{i}.png") for i in range(32)]
    assert 'role="alert"' not in write_page(tmp_path / "t.html", found, [], METRICS)


@pytest.mark.parametrize(("alarms", "told"), [(0, False), (3, False), (4, True)])
def test_false_alarms_that_the_asked_rate_does_not_explain_are_told(alarms, told):
    """Of 14 at 5 %, chance makes 3 or more in 3 of a hundred tests, 4 or more in 0.4."""
    rows = [score_row(gt_label=0, decision=decision_word(i < alarms)) for i in range(14)]
    lines = decisions.alarms(rows, 0.05)
    assert bool(lines) == told
    assert all(f"{alarms} of 14 normal images are false alarms" in line for line in lines)


def test_page_names_and_shows_the_terms_that_decide(tmp_path):
    fitted = calibration.fit({"map_top": np.arange(20.0)}, ["map_top"], (1, 2), 0.1, held_out=True)
    text = evaluation_page(
        tmp_path / "r.html", metrics=METRICS | {"published": False},
        calibrations=Calibrations(("",), (fitted,)),
        cases=[make_case(terms={"map_top": 7.25})],
    )  # fmt: skip
    reader = Reader(text)
    assert "The score is top 2 % of the map, on a scale" in reader.text
    assert "Decisions on this page are made by: top 2 % of the map." in reader.text
    assert "top 2 % of the map 7.25" in reader.text
    assert [plot["data-term"] for plot in reader.find("div") if "data-term" in plot] == ["map_top"]
    assert list(known(text)["images"]["terms"]) == ["map_top"]
    assert "the paper's, scaled" not in reader.text
    assert "as the paper's, but of another way of comparing" in reader.text


def test_the_script_knows_every_image_exactly(tmp_path):
    rows = [score_row(path=f"{i}.png", image_score_calibrated=i / 3) for i in range(3)]
    text = write_page(tmp_path / "r.html", rows, [], METRICS, normals={"": np.array([0.5, 1.5])})
    content = known(text)
    assert content["images"]["score"] == [0, 1 / 3, 2 / 3]
    (kind,) = content["kinds"]
    assert kind["threshold"] == CALIBRATION.threshold
    assert kind["normals"] == [0.5, 1.5]
    assert kind["range"][0] < 0.5 < CALIBRATION.threshold < kind["range"][1]


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 1e-9, 3.0])
def test_an_axis_of_scores_shows_the_normal_ones_wherever_the_threshold_is(threshold):
    normals = np.random.default_rng(0).normal(size=101)
    normals -= np.median(normals)
    low, high = content.score_range([9.0], threshold, normals)
    assert low < min(threshold, 0) <= max(threshold, 0) < high
    assert low < np.quantile(normals, 0.1)
    assert high > np.quantile(normals, 0.9)


def test_page_escapes_everything_that_a_user_named(tmp_path):
    case = make_case(path=f"dir/{HOSTILE}", category=HOSTILE, defect=HOSTILE)
    text = write_page(
        tmp_path / "r.html",
        [score_row(path=f"dir/{HOSTILE}", category=HOSTILE, defect=HOSTILE), score_row()],
        [case],
        {**METRICS, "versions": {HOSTILE: HOSTILE}},
        title=HOSTILE,
        command=HOSTILE,
        calibrations=Calibrations(("", HOSTILE), (CALIBRATION, CALIBRATION)),
        config={"data": {"root": HOSTILE}},
    )
    assert HOSTILE not in text
    reader = Reader(text)
    assert reader.open == []
    assert len(reader.find("script")) == 2
    assert f"dir/{HOSTILE}" in known(text)["images"]["path"]
    assert reader.text.count(HOSTILE) > 5
    assert reader.find("code")[-1]["title"] == f"dir/{HOSTILE}"


def prediction_rows():
    row = {"image_score": 9.0, "threshold": 3.0, "component": "", "decision": "anomalous"}
    return [{**row, "path": "a.png"}, {**row, "image_score": 1.0, "decision": "normal"}]


def test_page_of_a_prediction_needs_no_labels(tmp_path):
    undecodable = b"b\xff.png".decode(errors="surrogateescape")
    rows = prediction_rows()
    rows[1]["path"] = undecodable
    unreadable = {"path": "c.png", "image_score": None, "decision": "unreadable", "error": "cut"}
    unlabelled = {"gt_label": None, "gt_mask": None, "category": "", "defect": ""}
    cases = [
        make_case(path="a.png", image_score=9.0, **unlabelled),
        make_case(path=undecodable, image_score=1.0, decision=False, **unlabelled),
    ]
    text = write_page(tmp_path / "p.html", [*rows, unreadable], cases, None)
    reader = Reader(text)
    assert [card["data-verdict"] for card in reader.find("article")] == ["anomalous", "normal"]
    assert [image["alt"] for image in reader.find("img")] == ["image", "heat map"] * 2
    assert "anomalous1of 3 images" in reader.text
    assert "unreadable1of 3 images" in reader.text
    assert "c.png: cut" in reader.text
    assert "AUROC" not in reader.text.split("What the numbers mean")[0]
    assert known(text)["images"]["score"] == [9.0, 1.0]


def test_page_without_cases_has_no_gallery(tmp_path):
    assert not Reader(write_page(tmp_path / "p.html", [score_row()], [], METRICS)).find("article")


def test_page_is_the_same_every_time(tmp_path):
    assert evaluation_page(tmp_path / "a.html") == evaluation_page(tmp_path / "b.html")


def test_page_tells_when_the_normals_cannot_guarantee_the_rate(tmp_path):
    text = evaluation_page(tmp_path / "a.html")
    assert "at most 9.52 % lie above it on average, and at 95 % at most 22 %" in text  # 2 of 21


def test_a_threshold_that_was_given_promises_nothing(tmp_path):
    given = dataclasses.replace(CALIBRATION, threshold=7.5, num_normals=0)
    calibrations = Calibrations(("",), (given,))
    text = write_page(tmp_path / "r.html", [score_row()], [], METRICS, calibrations=calibrations)
    assert "The threshold of <b>7.5</b> was given" in text
    assert "on average" not in text


def test_a_page_of_five_thousand_images_stays_below_twelve_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (480, 640, 3), np.uint8)  # hardly compressed: the largest there is
    rows = [score_row(path=f"a/folder/of/a/line/{i:05}.png") for i in range(5000)]
    drawn = []

    def cases():
        for row in rows:
            drawn.append(row["path"])
            yield make_case(path=row["path"], image=noise)

    write_page(tmp_path / "r.html", rows, cases(), METRICS)
    assert 9e6 < (tmp_path / "r.html").stat().st_size < 12e6
    assert len(drawn) < 100  # no more is read than has room
