"""Images in tiles through every command: one detector, whoever runs it."""

import json

import numpy as np
import pytest

from invad_jax.data import preprocess
from invad_jax.inference.loader import Detector
from invad_jax.inference.predictor import load
from invad_jax.serving.line import Line
from tests.commands import TINY_MLP, WHITE, training

WAYS = {
    "tiles": ("data.image_size=64", "tiling.size=32", "tiling.overlap=16"),
}


@pytest.fixture(scope="module", params=WAYS)
def run(commands, request):
    """A workdir, evaluated and exported."""
    run = commands.folder / request.param
    options = (*WHITE, "train.num_steps=0", *WAYS[request.param])
    commands.here(*training(run, *options, tiny=TINY_MLP))
    commands.here("eval", "--workdir", str(run), "--no-speed")
    said = commands.here("export", "--workdir", str(run), "--out", str(run / "part.invad")).stdout
    assert "decisions identical" in said
    return run


@pytest.fixture(scope="module")
def photographs(commands, run):
    root = next((commands.folder / "cache" / "samples").glob("procedural-*"))
    return [str(path) for path in sorted(root.glob("*/test/*/*.png"))[::4]]


def test_every_way_to_run_it_says_the_same(run, photographs):
    trained, exported = load(run), load(run / "part.invad")
    expected = trained.predict(photographs)
    assert 0 < np.mean(expected.decision) < 1
    ours = exported.predict(photographs)
    np.testing.assert_allclose(ours.image_score, expected.image_score, atol=1e-4)
    images = [preprocess.read_original(path, trained.config.data) for path in photographs]
    alone = Detector(run / "part.invad")(images)
    np.testing.assert_allclose(alone["image_score"], expected.image_score, atol=1e-4)
    np.testing.assert_allclose(alone["anomaly_map"], expected.anomaly_map, rtol=1e-4, atol=1e-4)
    line = Line(trained)
    seen = [line.take_file(path, "part").image_score for path in photographs]
    np.testing.assert_allclose(seen, expected.image_score, atol=1e-4)


def test_the_commands_take_it(commands, run, photographs):
    rows = json.loads((run / "eval" / "metrics.json").read_text())
    assert rows["fusion"]["calibrated"]["mean"]["p_auroc"] > 0.5
    out = commands.folder / f"decisions_{run.name}"
    arguments = ("--workdir", str(run), "--out", str(out), "--format", "jsonl")
    commands.here("predict", *arguments, "--input", *photographs)
    written = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    expected = load(run).predict(photographs)
    assert [row["decision"] == "anomalous" for row in written] == expected.decision.tolist()
    good = [path for path in photographs if "/good/" in path]
    commands.here("calibrate", "--workdir", str(run), "--check", *good)
