"""The table of other detectors: means, spreads and costs of what evaluations wrote."""

import json

import pytest
import rivals

SETS = ("bottle", "cubes")


def metrics_of(i_auroc, p_auroc=None):
    """As `eval` writes them: one category has no masks."""
    rows = {}
    for name, value in zip(SETS, i_auroc, strict=True):
        rows[name] = dict.fromkeys(rivals.METRICS) | {"i_auroc": value}
    rows["bottle"]["p_auroc"] = p_auroc
    mean = {"i_auroc": sum(i_auroc) / len(i_auroc), "p_auroc": p_auroc}
    mean = dict.fromkeys(rivals.METRICS) | mean
    return {"nfe": 5, "fusion": {"calibrated": {"categories": rows, "mean": mean}}}


@pytest.fixture
def ways(tmp_path):
    """Two seeds of a method, and what the clock said."""
    found = [rivals.Way("deco_diff", "by itself", seed) for seed in (0, 1)]
    for way, values in zip(found, ((0.9, 0.7), (0.7, 0.5)), strict=True):
        path = way.metrics(tmp_path)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(metrics_of(values, 0.5)))
    speed = {"images/s": 12.5, "ms": 80.0, "GFLOP": 1.25, "M parameters": 2.9}
    (tmp_path / "speed.json").write_text(json.dumps({"deco_diff: by itself": speed}))
    return found


def test_a_row_has_means_spreads_and_costs(tmp_path, ways):
    head, row = rivals.rows(tmp_path, ways)
    said = dict(zip(head, row, strict=True))
    assert (said["method"], said["compared by"], said["seeds"], said["NFE"]) == (
        "deco_diff", "by itself", "2", "5",
    )  # fmt: skip
    assert said["i_auroc"] == "70.0 ± 14.1"
    assert said["p_auroc"] == "50.0 ± 0.0"
    assert said["aupro"] == "-"
    assert (said["images/s"], said["GFLOP"]) == ("12.5", "1.25")
    assert said["cubes"] == "60.0 ± 14.1"


def test_other_sets_and_options_reach_every_training(tmp_path, monkeypatch):
    trained, evaluated = [], []
    monkeypatch.setattr(rivals.train_command, "cli", lambda argv: trained.append(argv) or 0)
    monkeypatch.setattr(
        rivals, "_eval", lambda run, folder, options: evaluated.append((folder.name, options))
    )
    monkeypatch.setattr(rivals, "joined", lambda folder: {})
    given = ["data.root=sets", "data.categories=pill,nut"]
    rivals.evaluate(tmp_path, rivals.Way("omiad", "by itself", 1), given)
    assert [argv[argv.index("--workdir") + 1] for argv in trained] == [
        str(tmp_path / name) for name in ("masked_adaptive-1", "omiad-1")
    ]
    for argv in trained:
        assert {f"--set={option}" for option in (*given, "train.seed=1")} <= set(argv)
    way = rivals.Way("deco_diff_class", "class given", 1)
    rivals.evaluate(tmp_path, way, given, ("pill", "nut"))
    assert evaluated[1:] == [
        ("nut", ["inversion.label=0", "data.categories=nut"]),
        ("pill", ["inversion.label=1", "data.categories=pill"]),
    ]
    rivals.train(tmp_path, "diad", 0)  # as before, where nothing is given
    assert [option for option in trained[-1] if option.startswith("--set")] == [
        "--set=train.seed=0"
    ]


def test_evaluations_of_a_category_each_are_one(tmp_path):
    for name, value in (("bottle", 0.9), ("cubes", 0.5)):
        one = metrics_of((value, value), 0.25)
        table = one["fusion"]["calibrated"]["categories"]
        one["fusion"]["calibrated"]["categories"] = {name: table[name]}
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(one))
    found = rivals.joined(tmp_path)["fusion"]["calibrated"]
    assert found["mean"]["i_auroc"] == pytest.approx(0.7)
    assert found["mean"]["p_auroc"] == 0.25
    assert found["mean"]["mad"] is None
    assert sorted(found["categories"]) == ["bottle", "cubes"]


def test_the_figure_has_a_point_a_row(tmp_path, ways):
    pytest.importorskip("matplotlib")
    table = list(rivals.rows(tmp_path, ways))
    rivals.draw(table, tmp_path / "a.svg")
    rivals.draw(table, tmp_path / "b.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert "deco_diff" in drawn
    assert drawn == (tmp_path / "b.svg").read_text()


def test_every_method_is_a_config_and_its_teacher_too():
    for name in rivals.METHODS:
        config, _ = rivals.VARIANTS.get(name, (name, []))
        assert (rivals.CONFIGS / f"{config}.py").is_file()
    assert set(rivals.TEACHER) <= set(rivals.METHODS)
    assert set(rivals.TEACHER.values()) <= set(rivals.METHODS)
