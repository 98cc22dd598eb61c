"""Tiles, a letterbox and a region through every command: one detector, whoever runs it."""

import json
import shutil
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from invad_jax.data import preprocess
from invad_jax.data.samples import procedural_root
from invad_jax.inference.loader import Detector
from invad_jax.inference.predictor import load
from invad_jax.serving.line import Line
from tests.commands import TINY_MLP, WHITE, training

WAYS = {
    "tiles": ("tiling.size=32", "tiling.overlap=16", "train.num_steps=0"),
    "part": (
        "data.aspect=letterbox",
        "data.region=region.png",
        "tiling.size=32",
        "train.num_steps=4",
    ),
}


@pytest.fixture(scope="module")
def wide(commands):
    """A kind of product, drawn, of which the upper half was photographed: 128 x 64."""
    root = commands.folder / "wide"
    with mock.patch.dict("os.environ", commands.environment):
        shutil.copytree(procedural_root() / "weave", root / "weave")
    for path in root.rglob("*.png"):
        Image.open(path).crop((0, 0, 128, 64)).save(path)
    region = np.zeros((64, 128), np.uint8)
    region[:, 32:] = 255
    Image.fromarray(region).save(commands.folder / "region.png")
    return root


@pytest.fixture(scope="module", params=WAYS)
def run(commands, wide, request):
    """A workdir, evaluated and exported."""
    run = commands.folder / request.param
    images = ("data.name=mvtec", f"data.root={wide}", "data.categories=weave", "data.image_size=64")
    options = (*WHITE, *images, *WAYS[request.param])
    commands.here(*training(run, *options, tiny=TINY_MLP))
    commands.here("eval", "--workdir", str(run), "--no-speed", "--save-maps")
    said = commands.here("export", "--workdir", str(run), "--out", str(run / "part.invad")).stdout
    assert "decisions identical" in said
    return run


@pytest.fixture(scope="module")
def photographs(wide):
    return [str(path) for path in sorted(wide.glob("weave/test/*/*.png"))[::3][:8]]


def test_every_way_to_run_it_says_the_same(run, photographs):
    trained, exported = load(run), load(run / "part.invad")
    expected = trained.predict(photographs)
    assert 0 < np.mean(expected.decision) < 1
    ours = exported.predict(photographs)
    np.testing.assert_allclose(ours.image_score, expected.image_score, atol=1e-4)
    np.testing.assert_array_equal(ours.extent, expected.extent)
    images = [preprocess.read_original(path, trained.config.data) for path in photographs]
    alone = Detector(run / "part.invad")(images)
    np.testing.assert_allclose(alone["image_score"], expected.image_score, atol=1e-4)
    np.testing.assert_allclose(alone["anomaly_map"], expected.anomaly_map, rtol=1e-4, atol=1e-4)
    handed = trained.predict(images)
    np.testing.assert_allclose(handed.image_score, expected.image_score, atol=1e-4)
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


def test_maps_have_the_proportions_of_the_image(commands, run, photographs):
    found = load(run).predict(photographs)[0]
    saved = np.load(next((run / "eval" / "maps").rglob("*.npy")))
    if run.name == "tiles":
        assert found.anomaly_map.shape == saved.shape == (64, 64)
        assert np.isfinite(found.anomaly_map).all()
        return
    assert found.anomaly_map.shape == saved.shape == (32, 64)
    # The region is the right three quarters.
    assert np.isnan(found.anomaly_map[:, :16]).all()
    assert np.isfinite(found.anomaly_map[:, 16:]).all()
    assert all(region.left >= 32 for region in found.regions((128, 64)))


def test_what_takes_no_part_may_look_like_anything(run, photographs):
    if run.name == "tiles":
        pytest.skip("everything takes part")
    model = load(run)
    image = preprocess.read_original(photographs[0], model.config.data)
    marked = image.copy()
    marked[:, :16] = (255, 0, 255)  # 8 pixels of 64 from the region, which the encoder sees
    one, other = model.predict([image, marked])
    assert one.image_score == pytest.approx(other.image_score, abs=0.05)
    spoilt = image.copy()
    spoilt[:, 112:] = (255, 0, 255)
    assert model.predict([spoilt])[0].image_score > one.image_score + 1


def test_another_region_is_refused(commands, run):
    if run.name == "tiles":
        said = commands.refused(
            "eval", "--workdir", str(run), "--set", f"data.region={commands.folder}/region.png"
        )
        assert "another data.region" in said
        return
    other = commands.folder / "other.png"
    Image.new("L", (4, 4), 255).save(other)
    arguments = ("eval", "--workdir", str(run), "--set")
    said = commands.refused(*arguments, f"data.region={other}")
    assert "was trained with another one" in said
    assert "data.aspect" in commands.refused(*arguments, "data.aspect=stretch")
    said = commands.refused(*arguments, "inversion.paradigm=padim")
    assert "data.aspect=letterbox: would have no effect" in said
