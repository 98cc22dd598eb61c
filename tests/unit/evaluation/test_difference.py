"""Two evaluations compared: what is found, what is refused, and the exit status."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from invad_jax import compare
from invad_jax.evaluation.saved import TERMS
from invad_jax.report.tables import METRICS, SCORE_COLUMNS

NAMES = [
    f"{category}/test/{defect}/{i:03}.png"
    for category in ("cable", "nut")
    for defect in ("good", "crack")
    for i in range(3)
]


def rows_of(root="/data", seed=0):
    """One row an image, as eval writes them; anomalous images score higher, with overlap."""
    rng = np.random.default_rng(seed)
    rows = []
    for name in NAMES:
        anomalous = "crack" in name
        score = rng.normal(1.0 * anomalous)
        rows.append({
            "path": f"{root}/{name}", "category": name.split("/")[0], "defect": name.split("/")[2],
            "gt_label": int(anomalous), "nll": 1000 + 10 * score, "map_range": 3 + rng.random(),
            "image_score_calibrated": score, "image_score_test_minmax": rng.random(),
            "threshold": 0.5, "decision": "anomalous" if score > 0.5 else "normal",
        })  # fmt: skip
    return rows


def metrics_of(auroc=0.9, p_auroc=0.8, images_per_second=20.0, kind="cpu"):
    row = {**dict.fromkeys(METRICS), "i_auroc": auroc, "p_auroc": p_auroc}
    table = {"categories": {"cable": row, "nut": row}, "mean": row}
    return {
        "fusion": {"calibrated": table, "test_minmax": table},
        "device": {"platform": kind, "kind": kind, "count": 1},
        "speed": {"images_per_second": images_per_second, "latency_ms_batch1": {"p50": 8.0}},
    }


def write_csv(path, rows, columns=SCORE_COLUMNS):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_eval(folder, rows, metrics):
    write_csv(folder / "scores.csv", rows)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def run_a(tmp_path):
    return write_eval(tmp_path / "a", rows_of(), metrics_of())


def run(*argv):
    return compare.cli([str(argument) for argument in argv])


def result_of(*argv, out):
    status = run(*argv, "--out", out)
    return status, json.loads((out / "compare.json").read_text())


def refusal(capsys, *argv):
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_run_equals_itself_in_any_form_and_order(run_a, tmp_path, capsys):
    workdir = tmp_path / "work"
    write_eval(workdir / "eval", rows_of()[::-1], metrics_of())
    status, result = result_of(run_a, workdir, out=tmp_path / "out")
    assert status == 0
    assert {row["max"] for row in result["scores"].values()} == {0.0}
    assert set(result["scores"]) == {*SCORE_COLUMNS} & {*TERMS} == {*TERMS}
    assert all(row["rank_correlation"] == pytest.approx(1) for row in result["scores"].values())
    assert {row["difference"] for row in result["metrics"]} == {0.0}
    assert result["decisions"] == {"compared": len(NAMES), "flips": []}
    assert result["past_tolerances"] == []
    page = capsys.readouterr().out
    assert (tmp_path / "out" / "compare.md").read_text() == page
    assert "Within the tolerances." in page


def test_another_model_or_config_is_said_and_not_refused(run_a, tmp_path, capsys):
    ours = {"step": 400, "seed": 0, "config_hash": "0a1b", "terms": ["nll"]}
    a = write_eval(tmp_path / "x", rows_of(), metrics_of() | ours)
    for theirs, said in (
        ({}, None),
        ({"step": 300}, "step `400` and `300`."),
        ({"config_hash": "9f3c"}, "config_hash `0a1b` and `9f3c` (any option makes another hash"),
        ({"config_hash": "9f3c", "seed": 1}, "seed `0` and `1`, config_hash `0a1b`"),
        ({"terms": ["nll", "map_max"]}, "terms `['nll']` and `['nll', 'map_max']`."),
    ):
        b = write_eval(tmp_path / "y", rows_of(), metrics_of() | ours | theirs)
        status, result = result_of(a, b, out=tmp_path / "out")
        assert (status, set(result["unlike"])) == (0, set(theirs))
        page = capsys.readouterr().out
        assert ("Not of one model with one config: " in page) == bool(said)
        assert said is None or f"one config: {said}" in page
    assert result_of(run_a, a, out=tmp_path / "out")[1]["unlike"] == {}  # nothing known of one


def test_score_differences_against_numpy_and_scipy(run_a, tmp_path):
    rows = rows_of()
    rng = np.random.default_rng(1)
    for row in rows:
        row["nll"] += rng.normal()
    _, result = result_of(run_a, write_eval(tmp_path / "b", rows, metrics_of()), out=tmp_path)
    a, b = (np.array([row["nll"] for row in r]) for r in (rows_of(), rows))
    ranks = [stats.rankdata(x) for x in (a, b)]
    expected = {
        "max": abs(a - b).max(),
        "mean": abs(a - b).mean(),
        "spread": a.std(),
        "max_of_spread": abs(a - b).max() / a.std(),
        "mean_of_spread": abs(a - b).mean() / a.std(),
        "rank_correlation": np.corrcoef(*ranks)[0, 1],  # Spearman by its definition
    }
    found = result["scores"]["nll"]
    assert found.pop("worst") == rows[int(abs(a - b).argmax())]["path"]
    assert found == pytest.approx(expected, rel=1e-12)  # float64, other order of sums


def test_constant_scores_have_neither_spread_nor_rank_correlation(tmp_path):
    columns = ("path", "image_score")
    # Three times 0.1: a standard deviation of 1e-17 by rounding, which is no scale.
    a, b = (
        write_csv(tmp_path / f"{x}.csv", [dict(zip(columns, (i, x), strict=True)) for i in "pqr"],
                  columns)
        for x in (0.1, 0.105)
    )  # fmt: skip
    status, result = result_of(a, b, out=tmp_path)
    assert status == 0
    found = result["scores"]["image_score_calibrated"]
    assert found["rank_correlation"] is None
    assert found["max_of_spread"] == found["max"] == pytest.approx(0.005)


@pytest.mark.parametrize(("tolerance", "status"), [("0.09", 1), ("0.11", 0), ("inf", 0)])
def test_the_score_tolerance(run_a, tmp_path, tolerance, status):
    rows = rows_of()
    spread = np.std([row["map_range"] for row in rows])
    rows[4]["map_range"] += 0.1 * spread
    b = write_eval(tmp_path / "b", rows, metrics_of())
    found, result = result_of(run_a, b, "--tolerance-score", tolerance, out=tmp_path)
    assert found == status
    assert [line.split(":")[0] for line in result["past_tolerances"]] == ["map_range"] * status


@pytest.mark.parametrize(("tolerance", "status"), [("0.019", 1), ("0.021", 0)])
def test_the_metric_tolerance(run_a, tmp_path, tolerance, status):
    b = write_eval(tmp_path / "b", rows_of(), metrics_of(auroc=0.88))
    found, result = result_of(run_a, b, "--tolerance-metric", tolerance, out=tmp_path)
    assert found == status
    differing = [row for row in result["metrics"] if row["difference"]]
    assert [(row["fusion"], row["category"], row["metric"]) for row in differing] == [
        (fusion, category, "i_auroc")
        for fusion in ("calibrated", "test_minmax")
        for category in ("cable", "nut", "mean")
    ]
    assert differing[0]["difference"] == pytest.approx(-0.02)
    assert len(result["past_tolerances"]) == (6 if status else 0)


def test_a_metric_that_one_lacks_is_past_any_tolerance(run_a, tmp_path):
    b = write_eval(tmp_path / "b", rows_of(), metrics_of(p_auroc=None))
    status, result = result_of(run_a, b, "--tolerance-metric", "inf", out=tmp_path)
    assert status == 1
    assert result["past_tolerances"][0] == "calibrated, cable, p_auroc: exists in one only"
    assert result["tolerances"]["tolerance_metric"] is None


@pytest.mark.parametrize(("allowed", "status"), [(0, 1), (1, 1), (2, 0)])
def test_flips_are_listed_and_counted(run_a, tmp_path, capsys, allowed, status):
    rows = rows_of()
    opposite = {"anomalous": "normal", "normal": "anomalous"}
    for i in (2, 7):
        rows[i]["decision"] = opposite[rows[i]["decision"]]
    b = write_eval(tmp_path / "b", rows, metrics_of())
    found, result = result_of(run_a, b, "--allow-flips", allowed, out=tmp_path)
    assert found == status
    assert [flip["path"] for flip in result["decisions"]["flips"]] == [f"/data/{NAMES[i]}"
                                                                       for i in (2, 7)]  # fmt: skip
    assert f"`/data/{NAMES[7]}`: {opposite[rows[7]['decision']]} in A" in capsys.readouterr().out


def test_speed_ratio_names_the_devices(run_a, tmp_path, capsys):
    b = write_eval(tmp_path / "b", rows_of(), metrics_of(images_per_second=50.0, kind="gpu"))
    _, result = result_of(run_a, b, out=tmp_path)
    assert result["speed"]["images_per_second"] == {"a": 20.0, "b": 50.0, "ratio": 2.5}
    assert result["speed"]["latency_ms_batch1_p50"]["ratio"] == 1.0
    page = capsys.readouterr().out
    assert "1 x cpu (cpu)" in page
    assert "1 x gpu (gpu)" in page


def test_another_precision_is_said(tmp_path, capsys):
    a, b = (
        write_eval(tmp_path / name, rows_of(), metrics_of() | {"precision": precision})
        for name, precision in (("a", "float32"), ("b", "bfloat16"))
    )
    assert compare.cli([str(a), str(b)]) == 0
    said = capsys.readouterr().out
    assert "in `float32`" in said
    assert "in `bfloat16`" in said
    assert "Another precision" in said
    assert compare.cli([str(a), str(a)]) == 0
    assert "Another precision" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("root", "components"),
    [("/data", 6), ("/elsewhere/mvtec", 4), ("C:\\mvtec", 4), (".", 4), ("", 4)],
)
def test_another_root_matches_by_the_ends_of_paths(run_a, tmp_path, root, components):
    rows = rows_of(root)[::-1]
    for row in rows:
        row["path"] = row["path"].lstrip("/") if not root else row["path"]
        row["path"] = row["path"].replace("/", "\\") if root.startswith("C:") else row["path"]
    b = write_eval(tmp_path / "b", rows, metrics_of())
    status, result = result_of(run_a, b, out=tmp_path)
    assert status == 0  # a wrong pair would have other scores
    assert result["matched_path_components"] == components


def test_a_csv_from_elsewhere(run_a, tmp_path, capsys):
    """Only ranks are comparable; image metrics are made for both from A's labels."""
    rows = rows_of("elsewhere")
    rng = np.random.default_rng(2)
    foreign = [{"path": row["path"], "image_score": rng.random()} for row in rows]
    b = write_csv(tmp_path / "b.csv", foreign, ("path", "image_score"))
    status, result = result_of(run_a, b, "--tolerance-score", "inf", out=tmp_path)
    assert status == 1
    assert list(result["scores"]) == ["image_score_calibrated"]
    assert result["decisions"] is None
    assert result["speed"] == {}
    assert {row["metric"] for row in result["metrics"]} == {"i_auroc", "i_ap", "i_f1_max"}
    nut = [i for i, name in enumerate(NAMES) if name.startswith("nut")]
    labels = [rows[i]["gt_label"] for i in nut]
    expected = [
        roc_auc_score(labels, [table[i][name] for i in nut])
        for table, name in ((rows, "image_score_calibrated"), (foreign, "image_score"))
    ]
    row = next(r for r in result["metrics"] if (r["category"], r["metric"]) == ("nut", "i_auroc"))
    assert [row["a"], row["b"]] == pytest.approx(expected)
    assert "device not stated" in capsys.readouterr().out


def test_odd_names_reach_the_page_and_the_file(tmp_path, capsys):
    names = ["good/caf\udce9.png", "good/a|b`c.png"]  # the first is not valid UTF-8
    rows = [{"path": name, "nll": i, "decision": "normal"} for i, name in enumerate(names)]
    a = write_csv(tmp_path / "a.csv", rows, ("path", "nll", "decision"))
    flipped = [{**row, "decision": "1"} for row in rows]
    b = write_csv(tmp_path / "b.csv", flipped, ("path", "nll", "decision"))
    status, result = result_of(a, b, out=tmp_path)
    assert status == 1
    assert [flip["path"] for flip in result["decisions"]["flips"]] == names
    page = capsys.readouterr().out
    assert "`good/caf\ufffd.png`" in page
    assert "\n- `good/a|b'c.png`: normal in A" in page
    assert "| `good/caf\ufffd.png` |" in page


def test_images_that_one_lacks_are_named(run_a, tmp_path, capsys):
    b = write_csv(tmp_path / "b.csv", rows_of("/elsewhere")[:-4])
    message = refusal(capsys, run_a, b)
    assert "without images of" in message
    assert "nut/test/crack/000.png" in message
    assert "and 1 more" in message
    assert message.startswith(f"error: {b}")
    assert refusal(capsys, b, run_a).startswith(f"error: {b}")  # which one lacks them is named


def test_ambiguous_ends_are_named(tmp_path, capsys):
    a = write_csv(tmp_path / "a.csv", [{"path": f"{r}/good/0.png", "nll": 1} for r in "xy"],
                  ("path", "nll"))  # fmt: skip
    b = write_csv(tmp_path / "b.csv", [{"path": f"{r}/good/0.png", "nll": 1} for r in "pq"],
                  ("path", "nll"))  # fmt: skip
    assert "several images have the same end of path: good/0.png" in refusal(capsys, a, b)


def test_the_same_names_of_another_category_are_refused(tmp_path, capsys):
    columns = ("path", "nll", "category")
    a, b = (
        write_csv(
            tmp_path / f"{name}.csv",
            [{"path": f"{name}/good/{i}.png", "nll": i, "category": name} for i in range(2)],
            columns,
        )
        for name in ("nut", "cable")
    )
    message = refusal(capsys, a, b)
    assert "of another category" in message
    assert "nut/good/0.png (nut, cable)" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "needs the column path"),
        ("path,other\na,1\n", "needs the column path and one of nll"),
        ("nll\n1\n", "needs the column path"),
        ("path,nll\n", "no rows"),
        ("path,nll\na,x\n", "a: nll 'x': expected a finite number"),
        ("path,nll\na,nan\n", "finite number"),
        ("path,nll\na\n", "a: nll '': expected"),
        ("path,nll\na,1\na,2\n", "several rows for one image: a"),
        ("path,nll,decision\na,1,maybe\n", "decision 'maybe': expected one of anomalous, normal"),
        ("path,nll,gt_label\na,1,2\n", "gt_label '2': expected one of 0, 1"),
        ("path,image_score,image_score_calibrated\na,1,1\n", "columns are the same"),
    ],
)
def test_a_csv_that_is_none_is_refused(run_a, tmp_path, capsys, content, words):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    message = refusal(capsys, run_a, path)
    assert str(path) in message
    assert words in message


def test_runs_that_are_none_are_refused(run_a, tmp_path, capsys):
    assert "No such file" in refusal(capsys, run_a, tmp_path / "nothing")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty}: no scores.csv" in refusal(capsys, run_a, empty)
    write_csv(empty / "scores.csv", rows_of())
    assert "metrics.json" in refusal(capsys, run_a, empty)
    (empty / "metrics.json").write_text('{"fusion": {"calibrated": {"categories": {"nut": 1}}}}')
    assert "not what invad_jax.eval writes" in refusal(capsys, run_a, empty)
    apart = write_csv(tmp_path / "b.csv", rows_of(), ("path", "nll"))
    others = write_csv(tmp_path / "c.csv", rows_of(), ("path", "map_range"))
    assert "no score is in both" in refusal(capsys, apart, others)


def test_options_that_are_none_are_refused(run_a, capsys):
    assert "--allow-flips -1: must be at least 0" in refusal(
        capsys, run_a, run_a, "--allow-flips", "-1"
    )
    assert "must be at least 0" in refusal(capsys, run_a, run_a, "--tolerance-score", "nan")
    assert "did you mean --allow-flips" in refusal(capsys, run_a, run_a, "--allow-flip5", "1")
    assert "RUN_B" in refusal(capsys, run_a)


def test_it_runs_without_jax(run_a):
    code = "import sys; sys.modules['jax'] = None; from invad_jax import compare; "
    code += f"sys.exit(compare.cli([{str(run_a)!r}, {str(run_a)!r}]))"
    project = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=project, capture_output=True)
