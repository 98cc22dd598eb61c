"""A sweep that is stopped, killed and continued gives what single commands give."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image

from invad_jax import sweep
from invad_jax.config import TERMS
from tests.commands import CONFIG, TINY_DIT, read_csv

POINTS = ("inversion.num_steps=1,3",)


def arguments(out="swept"):
    return [
        "sweep", "--config", CONFIG, "--out", out, "--seeds", "0,1", "--over", *POINTS,
        "--set", *TINY_DIT,
    ]  # fmt: skip


def times(folder, pattern):
    """When each file was written: a file that was made again has another time."""
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern) if path.is_file()}


@pytest.fixture(scope="module")
def swept(commands):
    """A finished sweep, and what was there when it was killed after its first point."""
    out = commands.folder / "swept"
    first = commands.start(*arguments())
    assert first.stderr.readline().startswith("$ python -m invad_jax.train")
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 0
    assert "the same command continues" in err
    assert not (out / "sweep.csv").exists()

    second = commands.start(*arguments())
    while not list(out.glob("points/*/*.json")) and second.poll() is None:
        time.sleep(0.02)
    second.kill()
    second.communicate(timeout=120)
    assert second.returncode == -signal.SIGKILL
    before = times(out, "runs/*/checkpoints/**/*") | times(out, "points/*/*.json")
    assert not (out / "sweep.csv").exists()
    return out, before, commands.run(*arguments())


def test_nothing_is_trained_or_evaluated_twice(swept):
    out, before, done = swept
    after = times(out, "runs/*/checkpoints/**/*") | times(out, "points/*/*.json")
    assert {path: after.get(path) for path in before} == before
    assert "invad_jax.train" not in done.stderr
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["seed=0", "seed=1"]
    evaluated = done.stderr.count("evaluated ")
    points = len(list(out.glob("points/*/*.json")))
    assert points == 4
    assert evaluated + sum("points" in path.parts for path in before) == points


def test_a_point_is_what_eval_says_of_it(commands, swept):
    out, _, _ = swept
    of_seed = ("--workdir", str(out / "runs" / "seed=1"))
    commands.here("eval", *of_seed, "--no-speed", "--set", "inversion.num_steps=1")
    payload = json.loads((out / "runs" / "seed=1" / "eval" / "metrics.json").read_text())
    rows = [
        row for row in read_csv(out / "sweep.csv")
        if row["seed"] == "1" and row["inversion.num_steps"] == "1"
    ]  # fmt: skip
    assert {row["fusion"] for row in rows} == {"calibrated", "test_minmax", *TERMS}
    for fusion, table in payload["fusion"].items():
        for category, values in (*table["categories"].items(), ("mean", table["mean"])):
            (row,) = [r for r in rows if r["fusion"] == fusion and r["category"] == category]
            for name, value in values.items():
                # `eval` compiles encoder and denoiser into one function, the sweep two; their
                # roundings differ in the last bits, which can swap neighbouring pixels.
                assert float(row[name]) == pytest.approx(value, abs=1e-6), (category, name)


def test_the_terms_alone_follow_from_the_scores(commands, swept):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    out, _, _ = swept
    scores = read_csv(out / "runs" / "seed=1" / "eval" / "scores.csv")
    rows = read_csv(out / "sweep.csv")
    for term in TERMS:
        (row,) = [
            r for r in rows
            if (r["seed"], r["inversion.num_steps"], r["fusion"], r["category"])
            == ("1", "1", term, "disc")
        ]  # fmt: skip
        of_disc = [s for s in scores if s["category"] == "disc"]
        expected = sklearn_metrics.roc_auc_score(
            [int(s["gt_label"]) for s in of_disc], [float(s[term]) for s in of_disc]
        )
        assert float(row["i_auroc"]) == pytest.approx(expected, abs=1e-6)  # as above


def test_the_same_command_again_only_writes_the_table(commands, swept):
    out, _, done = swept
    before = times(out, "runs/**/*") | times(out, "points/*/*.json")
    table = (out / "sweep.csv").read_bytes()
    again = commands.here(*arguments())
    assert times(out, "runs/**/*") | times(out, "points/*/*.json") == before
    assert (out / "sweep.csv").read_bytes() == table
    assert again.stdout == done.stdout
    assert again.stderr == ""


def test_no_inversion_at_all_is_a_point(commands, swept):
    done = commands.here(
        "sweep", "--config", CONFIG, "--out", str(swept[0]), "--seeds", "1", "--name", "none",
        "--over", "inversion.num_steps=0,1", "--over", "inversion.spacing=linspace,paper",
        "--set", *TINY_DIT, "scoring.prior=standard_normal",
    ).stdout  # fmt: skip
    points = [line.split(" | ")[:3] for line in done.splitlines() if line.startswith("| ")]
    assert points[2:5] == [["| 0", "-", "0"], ["| 1", "linspace", "1"], ["| 1", "paper", "1"]]


def test_another_sweep_beside_it_shares_models_and_points(commands, swept):
    out, _, _ = swept
    before = times(out, "runs/*/checkpoints/**/*") | times(out, "points/*/*.json")
    table = (out / "sweep.csv").read_bytes()
    more = ("--over", "inversion.spacing=linspace,paper", "--name", "spacing", "--seeds", "1")
    done = commands.here(*arguments(), *more)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "invad_jax.train" not in done.stderr
    assert done.stderr.count("evaluated ") == 2  # `linspace` is the default, and was there
    assert (out / "sweep.csv").read_bytes() == table
    assert len({row["inversion.spacing"] for row in read_csv(out / "spacing.csv")}) == 2


def test_a_model_that_is_there_is_evaluated_in_all_ways_by_two_processes_as_by_one(commands, swept):
    """As on a pod: nothing is trained, and what another model would be for is refused."""
    out, _, _ = swept
    run, of_one, of_two = (
        str(out / "runs" / "seed=0"),
        commands.folder / "one",
        commands.folder / "two",
    )
    ways = ["sweep", "--workdir", run, "--over", *POINTS]
    done = commands.here(*ways, "--out", str(of_one))
    assert done.stderr.count("evaluated ") == 2
    assert not (of_one / "runs").exists()
    commands.run(*ways, "--out", str(of_two), processes=2)
    rows = [row for row in read_csv(out / "sweep.csv") if row["seed"] == "0"]
    for ours in (read_csv(of_one / "sweep.csv"), read_csv(of_two / "sweep.csv")):
        assert len(ours) == len(rows)
        for row, expected in zip(ours, rows, strict=True):
            assert row["fusion"] == expected["fusion"]
            if expected["aupro"]:
                # Batches are split otherwise: last bits, which can swap neighbouring pixels.
                assert float(row["aupro"]) == pytest.approx(float(expected["aupro"]), abs=1e-5)
    for more in (("--seeds", "0,1"), ("--over", "train.learning_rate=0.1,0.2")):
        assert "is one model, and " in commands.refused(*ways, "--out", str(of_one), *more)
    absent = commands.refused("sweep", "--workdir", "absent", "--over", *POINTS)
    assert "absent" in absent


def test_models_of_another_config_are_refused(commands, swept):
    line = commands.refused(*arguments(), "train.learning_rate=0.5")
    assert "another config" in line
    assert "train.learning_rate is 0.5" in line
    assert "--out" in line


def test_results_are_of_the_images_that_are_there(commands, swept, tmp_path, monkeypatch):
    """One pixel of one training image is another: what was measured is not of this model."""
    cache = shutil.copytree(commands.folder / "cache" / "samples", tmp_path / "samples").parent
    path = sorted(cache.rglob("disc/train/good/*.png"))[3]
    image = np.array(Image.open(path))
    image[0, 0] ^= 1
    Image.fromarray(image).save(path)
    monkeypatch.setattr(commands, "environment", commands.environment | {"INVAD_CACHE": str(cache)})
    sweep._data.cache_clear()
    line = commands.refused(*arguments())
    sweep._data.cache_clear()
    assert "was trained on other images than" in line
    assert "--out" in line


def test_a_failed_training_is_said(commands):
    done = commands.run(*arguments("failed"), "mesh.fsdp=7", status=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "mesh.fsdp" in lines[0]
    assert "its training failed" in lines[-1]
    assert "Traceback" not in done.stderr
