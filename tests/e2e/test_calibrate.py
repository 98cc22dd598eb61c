"""Thresholds by the line's own good images, and what is said of those of today."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from invad_jax.errors import UserError
from invad_jax.inference.predictor import load


@pytest.fixture(scope="session")
def good(commands, part):
    """Normal photographs of both kinds that nobody has seen."""
    root = next((commands.folder / "cache" / "samples").glob("procedural-*"))
    folder = commands.folder / "good"
    folder.mkdir()
    for path in root.glob("*/test/good/*.png"):
        shutil.copy(path, folder / f"{path.parts[-4]}_{path.name}")
    return folder


@pytest.fixture
def run(white, tmp_path):
    return shutil.copytree(white, tmp_path / "run")


@pytest.fixture(scope="session")
def dark(good, commands):
    """The same at half the light."""
    folder = commands.folder / "dark"
    folder.mkdir()
    for path in good.iterdir():
        with Image.open(path) as image:
            ImageEnhance.Brightness(image).enhance(0.5).save(folder / path.name)
    return folder


def of(folder, kind):
    return sorted(str(path) for path in folder.glob(f"{kind}_*.png"))


def test_what_was_calibrated_before_a_score_had_a_term_is_calibrated_anew(commands, run):
    (path,) = run.glob("normals/*/scores.json")
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({name: v for name, v in whole.items() if name != "map_mean"}))
    with pytest.raises(UserError, match="not calibrated for these inversion and scoring options"):
        load(run).predict([])
    said = commands.here("eval", "--workdir", str(run), "--no-speed").stderr
    assert f"{path}: is of before scores had map_mean, and counts as not calibrated" in said
    assert json.loads(path.read_text()) == whole


def test_a_kind_keeps_its_threshold_where_one_image_was_taken_for_it(commands, run, good, tmp_path):
    """A model of two kinds; good discs, and one picture that looks like a weave."""
    before = {name: one.threshold for name, one in load(run).calibrations}
    folder = tmp_path / "discs"
    folder.mkdir()
    for path in [*of(good, "disc"), of(good, "weave")[0]]:
        shutil.copy(path, folder)
    done = commands.here("calibrate", "--workdir", str(run), "--normal", str(folder))
    assert "was taken for weave, of which there are too few" in done.stderr
    assert "weave: as before, of 40 images: too few of it in --normal, or none" in done.stdout
    after = {name: one.threshold for name, one in load(run).calibrations}
    assert after["weave"] == before["weave"]
    assert after["disc"] != before["disc"]
    weaves = [str(path) for path in of(good, "weave")[:4]]
    said = commands.refused("calibrate", "--workdir", str(run), "--normal", *weaves)
    assert "4 new good images: too few to set a threshold; it takes 5 of a kind" in said
    assert {name: one.threshold for name, one in load(run).calibrations} == after


def test_a_new_term_gives_a_lines_calibration_up_and_says_so(commands, run, good):
    commands.here("calibrate", "--workdir", str(run), "--normal", str(good))
    (path,) = run.glob("normals/*/scores.json")
    scores = json.loads(path.read_text())
    del scores["map_mean"]
    path.write_text(json.dumps(scores))
    said = commands.here("eval", "--workdir", str(run), "--no-speed").stderr
    assert "is of before scores had map_mean, and counts as not calibrated" in said
    assert "the calibration by a line's own images is given up" in said
    assert len(json.loads(path.read_text())["map_mean"]) == 80  # the training's images
    assert "has the calibration of its training" in commands.refused(
        "calibrate", "--workdir", str(run), "--undo"
    )


@pytest.mark.parametrize("option", ["--normal", "--check"])
def test_a_way_that_is_not_calibrated_is_one_line(commands, run, good, option):
    shutil.rmtree(run / "normals")
    said = commands.refused("calibrate", "--workdir", str(run), option, str(good))
    assert "not calibrated for these inversion and scoring options" in said


@pytest.mark.parametrize("source", ["workdir", "bundle"])
def test_images_that_were_trained_on_set_no_threshold(commands, run, part, good, tmp_path, source):
    """They meet themselves: under any name, and moved."""
    root = next((commands.folder / "cache" / "samples").glob("procedural-*"))
    seen = set(json.loads(next(run.glob("normals/*/scores.json")).read_text())["trained_on"])
    trained = [
        path for path in sorted((root / "disc" / "train" / "good").iterdir())
        if hashlib.sha256(path.read_bytes()).hexdigest()[:16] in seen
    ]  # fmt: skip
    assert len(trained) >= 5  # the others were held out
    moved = [shutil.copy(path, tmp_path / f"new_{path.name}") for path in trained[:5]]
    of_source = {"workdir": ["--workdir", str(run)], "bundle": ["--model", str(part)]}[source]
    out = ["--out", str(tmp_path / "line.invad")] if source == "bundle" else []
    arguments = ["calibrate", *of_source, *out, "--normal"]
    said = commands.refused(*arguments, *map(str, moved))
    assert "was trained on, and so was every other of 5 images" in said
    done = commands.here(*arguments, *map(str, moved[:1]), str(good))
    assert f"left out, as they were trained on: 1 ({moved[0]})" in done.stderr
    assert "by 10 normal images" in done.stdout


def test_thresholds_are_those_of_the_new_images(commands, run, good):
    before = {path: path.read_bytes() for path in (run / "normals").rglob("*.*")}
    asked = json.loads((run / "config.json").read_text())["calibration"]["false_positive_rate"]
    said = commands.here(
        "calibrate", "--workdir", str(run), "--normal", str(good), "--false-positive-rate", "0.2"
    ).stdout
    assert "disc: threshold" in said
    assert "20 % was asked" in said
    model = load(run)  # the rate is kept
    for kind, one in model.calibrations:
        scores = model.predict(of(good, kind)).image_score
        assert one.num_normals == 10
        # Conformal: the 9th smallest of 10, as 0.2 of 11 lets two lie above or at it.
        assert one.threshold == pytest.approx(np.sort(scores)[-2], abs=1e-4)
        assert np.median(scores) == pytest.approx(0, abs=1e-4)
    commands.here("calibrate", "--workdir", str(run), "--undo")
    assert all(path.read_bytes() == content for path, content in before.items())
    config = json.loads((run / "config.json").read_text())
    assert config["calibration"]["false_positive_rate"] == asked != 0.2
    assert "has the calibration of its training" in commands.refused(
        "calibrate", "--workdir", str(run), "--undo"
    )


def test_a_kind_without_new_images_keeps_its_own(commands, run, white, good):
    said = commands.here("calibrate", "--workdir", str(run), "--normal", *of(good, "disc")).stdout
    assert "weave: as before" in said
    (disc, weave), (_, theirs) = load(run).calibrations.each, load(white).calibrations.each
    assert weave.threshold == theirs.threshold
    assert weave.heat == theirs.heat
    assert disc.num_normals == 10


def test_a_bundle_is_calibrated_where_no_workdir_is(commands, part, good, run, tmp_path):
    out = tmp_path / "line.invad"
    arguments = ["--normal", str(good), "--false-positive-rate", "0.2"]
    commands.here("calibrate", "--model", str(part), *arguments, "--out", str(out))
    commands.here("calibrate", "--workdir", str(run), *arguments)
    ours, theirs = load(out), load(run)
    for a, b in zip(ours.calibrations.each, theirs.calibrations.each, strict=True):
        assert a.threshold == pytest.approx(b.threshold, abs=1e-4)  # sums in another order
        assert a.false_positive_rate == 0.2
    images = of(good, "disc")[:3]
    found = ours.model.outputs(
        np.stack(
            [np.asarray(Image.open(path).convert("RGB").resize((64, 64), 2)) for path in images]
        )
    )
    np.testing.assert_allclose(found["image_score"], ours.predict(images).image_score, atol=1e-4)
    assert "decisions identical" in commands.here("export", "--validate", str(out)).stdout
    assert load(part).calibrations != ours.calibrations  # the one of before is untouched


def test_good_images_of_today(commands, run, part, good, dark):
    commands.here("calibrate", "--workdir", str(run), "--normal", str(good))
    same = commands.here("calibrate", "--workdir", str(run), "--check", str(good)).stdout
    assert "! " not in same
    said = commands.here("calibrate", "--workdir", str(run), "--check", str(dark), status=1).stdout
    assert "! features: have moved" in said
    assert "something has moved" in said
    of_bundle = commands.here(
        "calibrate", "--model", str(part), "--check", str(dark), status=1
    ).stdout
    assert "! scores: have moved, higher" in of_bundle


def test_refusals(commands, run, part, good, tmp_path):
    where = ["--workdir", str(run)]
    assert "give one of" in commands.refused("calibrate", *where)
    both = ["--normal", str(good), "--check", str(good)]
    assert "give one of" in commands.refused("calibrate", *where, *both)
    assert "--out FILE: goes with" in commands.refused(
        "calibrate", "--model", str(part), "--normal", str(good)
    )
    (tmp_path / "bad.png").write_bytes(b"x")
    assert "nor can any other" in commands.refused(
        "calibrate", *where, "--normal", str(tmp_path / "bad.png")
    )
    scores = next((run / "normals").glob("*/scores.json"))
    assert json.loads(scores.read_text())["held_out"]
    with pytest.raises(UserError, match="not calibrated"):
        load(run, ["inversion.paradigm=padim"])
