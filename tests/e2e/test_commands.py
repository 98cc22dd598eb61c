"""From a command to files: the contract of the mains, and what they say when something is wrong."""

import functools
import json
import re
import shutil
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from invad_jax.evaluation import speed
from tests.commands import read_csv, training

METRICS = ("i_auroc", "i_ap", "i_f1_max", "p_auroc", "p_ap", "p_f1_max", "aupro", "mad")


@pytest.fixture(scope="module")
def evaluated(commands, trained):
    """What `eval` said, whose clocks run for a tenth of a second."""
    measure = functools.partial(speed.measure_speed, seconds=0.1)
    with mock.patch.object(speed, "measure_speed", measure):
        return commands.here("eval", "--workdir", "run", "--save-maps")


def test_train_says_how_long_it_will_take_and_what_the_threshold_is(said_by_train):
    # of 12, after the first and ten
    assert re.search(r"steps to go: 1, about \d+ s", said_by_train)
    for kind in ("disc", "weave"):
        assert re.search(rf"calibrated on \d+ normal images of {kind}: threshold", said_by_train)


def test_eval_writes_the_contract(evaluated, trained):
    payload = json.loads((trained / "eval" / "metrics.json").read_text())
    assert payload["schema"] == 1
    assert payload["step"] == 12
    assert payload["nfe"] == 3
    assert set(payload["fusion"]) == {"calibrated", "test_minmax"}
    for fusion in payload["fusion"].values():
        assert len(fusion["categories"]) >= 2
        for row in [*fusion["categories"].values(), fusion["mean"]]:
            assert set(row) == {*METRICS, "n_normal", "n_anomalous"}
            assert all(0 <= row[name] <= 1 for name in METRICS)
    assert payload["speed"]["images_per_second"] > 0
    assert payload["device"]["platform"] == "cpu"
    rows = read_csv(trained / "eval" / "scores.csv")
    assert list(rows[0]) == [
        "path", "category", "defect", "gt_label", "nll", "map_range", "map_mean", "map_max",
        "map_top", "component", "image_score_calibrated", "image_score_test_minmax", "threshold",
        "decision",
    ]  # fmt: skip
    counts = payload["fusion"]["calibrated"]["mean"]
    assert len(rows) == counts["n_normal"] + counts["n_anomalous"]
    assert len(list((trained / "eval" / "maps").rglob("*.npy"))) == len(rows)
    assert "http" not in (trained / "eval" / "report.html").read_text().replace("http://www.w3", "")
    assert "i_auroc" in evaluated.stdout


def test_the_table_is_recomputed_from_the_scores(evaluated, trained):
    """What metrics.json says follows from what scores.csv says, by another implementation."""
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    payload = json.loads((trained / "eval" / "metrics.json").read_text())
    rows = read_csv(trained / "eval" / "scores.csv")
    for name, row in payload["fusion"]["calibrated"]["categories"].items():
        mine = [r for r in rows if r["category"] == name]
        expected = sklearn_metrics.roc_auc_score(
            [int(r["gt_label"]) for r in mine], [float(r["image_score_calibrated"]) for r in mine]
        )
        assert row["i_auroc"] == pytest.approx(expected, abs=1e-12)


def test_predict_scores_a_file_as_eval_does(commands, evaluated, trained):
    rows = read_csv(trained / "eval" / "scores.csv")
    some = commands.folder / "new parts"
    (some / "deeper").mkdir(parents=True)
    for i, row in enumerate(rows[:5]):
        shutil.copy(row["path"], some / ("deeper" if i % 2 else ".") / f"{i}.png")
    commands.here("predict", "--workdir", "run", "--input", "new parts", "--out", "decided")
    predictions = read_csv(commands.folder / "decided" / "predictions.csv")
    assert list(predictions[0]) == [
        "path", "image_score", "threshold", "decision", "component", "normal_percentile",
        "regions", "left", "top", "width", "height", "area", "peak", "overlay", "error",
    ]  # fmt: skip
    assert len(predictions) == 5
    for prediction in predictions:
        row = rows[int(prediction["path"].rsplit("/", 1)[-1].removesuffix(".png"))]
        # One compiled function and the same batch size; the neighbours in the batch differ.
        assert float(prediction["image_score"]) == pytest.approx(
            float(row["image_score_calibrated"]), rel=1e-4, abs=1e-4
        )
        assert prediction["decision"] == row["decision"]
    overlays = sorted(p.name for p in (commands.folder / "decided").rglob("*.jpg"))
    assert overlays == [f"{i}.jpg" for i in range(5)]


def test_predict_on_one_file(commands, evaluated, trained):
    path = read_csv(trained / "eval" / "scores.csv")[0]["path"]
    commands.here("predict", "--workdir", "run", "--input", path, "--out", "one")
    assert len(read_csv(commands.folder / "one" / "predictions.csv")) == 1


def test_other_inversion_settings_are_calibrated_anew(commands, evaluated, trained):
    before = sorted(p.name for p in (trained / "normals").iterdir())
    one_step = ("--out", "one_step", "--set", "inversion.num_steps=1")
    commands.here("eval", "--workdir", "run", "--no-speed", *one_step)
    payload = json.loads((commands.folder / "one_step" / "metrics.json").read_text())
    assert (payload["nfe"], payload["speed"]) == (1, None)
    after = sorted(p.name for p in (trained / "normals").iterdir())
    assert len(after) == len(before) + 1


def test_a_stricter_rate_needs_no_training_images(commands, evaluated, trained):
    image = read_csv(trained / "eval" / "scores.csv")[0]["path"]
    thresholds = []
    for rate in ("0.5", "0.1"):
        commands.here(
            "predict", "--workdir", "run", "--input", image, "--out", "rate",
            "--set", f"calibration.false_positive_rate={rate}",
        )  # fmt: skip
        (row,) = read_csv(commands.folder / "rate" / "predictions.csv")
        thresholds.append(float(row["threshold"]))
    assert thresholds[0] < thresholds[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config", "absent.py"], "no such file"),
        (["train"], "--config"),
        (["train", "--confg", "x"], "--config"),
        (["eval", "--workdir", "nowhere"], "not a workdir"),
        (["eval", "--workdir", "run", "--set", "inversion.num_step=2"], "inversion.num_steps"),
        (["eval", "--workdir", "run", "--set", "denoiser.width=32"], "another config"),
        (["predict", "--workdir", "run", "--input", "absent", "--out", "x"], "no such file"),
        (["predict", "--workdir", "run", "--input", "broken", "--out", "x"], "broken.png"),
        (["predict", "--workdir", "run", "--input", "empty", "--out", "x"], "no image"),
        (["predict", "--workdir", "run", "--input", "broken", "--out", "x",
          "--set", "inversion.num_steps=11"], "not calibrated"),
    ],
)  # fmt: skip
def test_what_the_user_got_wrong_is_one_line_and_status_2(commands, trained, arguments, message):
    (commands.folder / "empty").mkdir(exist_ok=True)
    (commands.folder / "broken").mkdir(exist_ok=True)
    (commands.folder / "broken" / "broken.png").write_bytes(b"\x89PNG not really")
    assert message in commands.refused(*arguments)


def test_a_real_process_leaves_with_the_status(commands):
    done = commands.run("train", "--config", "absent.py", status=2)
    assert done.stderr.startswith("error: --config absent.py: no such file")
    assert done.stderr.count("\n") == 1


def test_a_users_folder_without_masks_or_labels(commands, tmp_path):
    """train/good and test/... with no masks: image metrics exist, pixel metrics are null."""
    rng = np.random.default_rng(0)
    for name, count in [("train/good", 8), ("test/good", 3), ("test/scratched", 3)]:
        (tmp_path / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (40, 60, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / name / f"{i}.jpg")
    own = ("data.name=folder", f"data.root={tmp_path}")
    commands.here(*training("own", *own))
    commands.here("eval", "--workdir", "own", "--no-speed")
    mean = json.loads((commands.folder / "own" / "eval" / "metrics.json").read_text())
    mean = mean["fusion"]["calibrated"]["mean"]
    assert mean["i_auroc"] is not None
    assert mean["aupro"] is None
    assert mean["mad"] is None


def test_no_normal_images(commands, tmp_path):
    (tmp_path / "train" / "good").mkdir(parents=True)
    own = ("data.name=folder", f"data.root={tmp_path}")
    assert str(tmp_path) in commands.refused(*training("none", *own))
    assert not (commands.folder / "none").exists()
