"""Training in coordinates where normal latents are N(0, I): decisions, kills, no steps at all."""

import json
import shutil

import jax
import numpy as np
import pytest

from invad_jax.inference.predictor import load
from invad_jax.normality import whitening
from tests.commands import (
    TINY_DIT,
    WHITE,
    final_arrays,
    newest_step,
    read_csv,
    training,
    unfinished_copy,
    wait_for_progress,
)

ANGLE = "inversion.solver=angle"


@pytest.fixture(scope="module")
def with_network(commands):
    """A workdir of twelve steps, and what was said."""
    run = commands.folder / "white_with_network"
    said = commands.here(*training(run, *WHITE, ANGLE)).stderr
    commands.here("eval", "--workdir", str(run), "--no-speed")
    return run, said


@pytest.mark.parametrize("num_steps", [0, 12])
def test_from_training_to_decisions(
    commands, white, said_of_white, with_network, tmp_path, num_steps
):
    run, said = with_network if num_steps else (white, said_of_white)
    assert "cannot be promised by" in said  # a hundredth, by 80 images
    assert ("held-out loss" in said) == (num_steps > 0)
    payload = json.loads((run / "eval" / "metrics.json").read_text())
    assert payload["nfe"] == (3 if num_steps else 0)
    assert payload["terms"] == ["map_top"]
    rows = read_csv(run / "eval" / "scores.csv")
    right = [row["component"] == row["category"] for row in rows]
    assert np.mean(right) > 0.9  # shapes that any encoder tells apart
    new = tmp_path / "new"
    new.mkdir()
    for i, row in enumerate(rows[:3]):
        shutil.copy(row["path"], new / f"{i}.png")
    commands.here(
        "predict", "--workdir", str(run), "--input", str(new), "--out", str(tmp_path / "decided")
    )
    predictions = read_csv(tmp_path / "decided" / "predictions.csv")
    for prediction, row in zip(predictions, rows[:3], strict=True):
        # One compiled function; the other images of the batch differ.
        expected = pytest.approx(float(row["image_score_calibrated"]), rel=1e-3, abs=1e-3)
        assert float(prediction["image_score"]) == expected


@pytest.fixture(scope="module")
def without_network(commands):
    run = commands.folder / "white_without_network"
    commands.here(*training(run, *WHITE, "train.num_steps=0", "data.holdout_fraction=0"))
    return run


@pytest.mark.parametrize(("share", "rows"), [(0.1, {"a": 1, "b": 12}), (0.0, {"a": 2, "b": 12})])
def test_images_that_whitened_themselves_set_no_threshold(commands, white, tmp_path, share, rows):
    """Of two images none can be left out; of a dozen each is new to its own Gaussians."""
    root = next((commands.folder / "cache" / "samples").glob("procedural-*"))
    for name, kind in (("a", "disc"), ("b", "weave")):
        folder = tmp_path / "data" / name / "train" / "good"
        folder.mkdir(parents=True)
        count = rows[name] if name == "b" or not share else 3  # one of three is held out
        for path in sorted(root.glob(f"{kind}/train/good/*.png"))[:count]:
            shutil.copy(path, folder)
    run = tmp_path / "run"
    commands.here(*training(
        run, *WHITE, "train.num_steps=0", "data.name=mvtec", f"data.root={tmp_path / 'data'}",
        f"data.holdout_fraction={share}",
    ))  # fmt: skip
    (path,) = run.glob("normals/*/scores.json")
    kept = json.loads(path.read_text())
    assert {name: kept["component"].count(name) for name in "ab"} == rows
    assert kept["held_out"] == bool(share)  # nothing else is known of a


def test_new_normal_images_are_as_untypical_as_the_threshold_expects(commands, without_network):
    """Honest scores of training images: about as high as those of normal test images."""
    run = without_network
    commands.here("eval", "--workdir", str(run), "--no-speed")
    (kept,) = (run / "normals").glob("*/scores.json")
    calibrated_on = json.loads(kept.read_text())
    assert len(calibrated_on["path"]) == 80
    assert calibrated_on["held_out"]
    rows = read_csv(run / "eval" / "scores.csv")
    new = [float(row["map_top"]) for row in rows if row["defect"] == "good"]
    assert np.median(calibrated_on["map_top"]) == pytest.approx(np.median(new), rel=0.1)
    # As training images score against what they taught themselves, it would be far below.
    model = load(run)
    bank = model.coordinates.bank
    assert len(bank.latent) == 80


def test_two_trainings_learn_the_same_coordinates(white, with_network):
    assert_same_coordinates(white, with_network[0])


def assert_same_coordinates(*runs):
    """To the last bit."""
    (ours, key), (theirs, its_key) = (whitening.read(run / "coordinates.npz") for run in runs)
    assert key == its_key
    np.testing.assert_array_equal(ours.gaussians.projection, theirs.gaussians.projection)


def assert_same_model(run, whole):
    """Parameters and coordinates, to the last bit."""
    assert newest_step(run) == 12
    jax.tree.map(np.testing.assert_array_equal, final_arrays(run, 12), final_arrays(whole, 12))
    assert_same_coordinates(run, whole)


def test_training_goes_on_from_a_checkpoint_to_the_same_parameters(
    commands, with_network, tmp_path
):
    whole, _ = with_network
    run = unfinished_copy(whole, tmp_path / "run")
    assert "resumed at step 8" in commands.here(*training(run, *WHITE, ANGLE)).stderr
    assert_same_model(run, whole)


@pytest.mark.long
def test_a_killed_training_goes_on_to_the_same_parameters(commands, with_network, tmp_path):
    whole, _ = with_network
    killed, as_here = tmp_path / "killed", {"devices": jax.device_count()}
    job = commands.start(*training(killed, *WHITE, ANGLE), **as_here)
    wait_for_progress(job, killed)
    job.kill()
    job.communicate()
    commands.run(*training(killed, *WHITE, ANGLE), **as_here)
    assert_same_model(killed, whole)


def test_without_its_coordinates_a_model_is_refused(commands, without_network, tmp_path):
    run = shutil.copytree(without_network, tmp_path / "run")
    (run / "coordinates.npz").unlink()
    assert "coordinates.npz: cannot be read" in commands.refused(
        "eval", "--workdir", str(run), "--no-speed"
    )


def test_what_is_normal_is_not_learnt_of_another_data_set(commands, trained, tmp_path):
    """Of options that are not calibrated yet; what is calibrated needs no training image."""
    parts = tmp_path / "parts"
    procedural = next((commands.folder / "cache" / "samples").glob("procedural-*"))
    for name in ("disc", "weave"):
        shutil.copytree(procedural / name, parts / name)
    for path in sorted((parts / "disc" / "train" / "good").iterdir())[:3]:
        path.unlink()
    options = ["--set", "data.name=mvtec", f"data.root={parts}"]
    commands.here("eval", "--workdir", str(trained), "--no-speed", *options, "--out", "elsewhere")
    said = commands.refused(
        "eval", "--workdir", str(trained), "--no-speed", *options, "inversion.num_steps=4"
    )
    assert f"data.root={parts}: its normal images are not those that" in said


def test_a_category_of_another_name_sets_no_threshold(commands, white, tmp_path):
    """Of a way that is not calibrated yet."""
    procedural = next((commands.folder / "cache" / "samples").glob("procedural-*"))
    for name, there in (("disc", "zdisc"), ("weave", "weave")):
        shutil.copytree(procedural / name, tmp_path / there)
    options = ["data.name=mvtec", f"data.root={tmp_path}", "scoring.prior=fitted"]
    said = commands.refused("eval", "--workdir", str(white), "--no-speed", "--set", *options)
    assert "zdisc was trained on under another name, one of disc, weave" in said


def test_the_options_that_go_together(commands, tmp_path):
    for change, words in [
        ("diffusion.prediction=eps", "takes v"),
        ("whitening.radius=-1", "must be at least 0"),
    ]:
        assert words in commands.refused(*training(tmp_path / "run", *WHITE, change))
    assert "needs train.latent_stats=whiten" in commands.refused(
        *training(tmp_path / "run", "train.num_steps=0", tiny=TINY_DIT)
    )
