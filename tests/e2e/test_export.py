"""From a workdir to one file, and from that to the same scores: in the package, and without it."""

import json
import math
import os
import subprocess
import sys
import zipfile
from hashlib import sha256
from unittest import mock

import numpy as np
import pytest

from invad_jax.data import preprocess
from invad_jax.data.dataset import hold_out
from invad_jax.data.layouts import load_dataset
from invad_jax.errors import UserError
from invad_jax.inference import bundle, exporting, in_parts, loader, packing
from invad_jax.inference.calibrate import calibrate
from invad_jax.inference.load import load_model
from invad_jax.inference.predictor import load
from invad_jax.runtime.workdir import Workdir
from tests.commands import read_csv

STANDALONE = """
import sys
import numpy as np
from loader import Detector
images = np.load(sys.argv[2])
found = Detector(sys.argv[1])(images)
np.savez(sys.argv[3], **found)
heavy = {"flax", "orbax", "grain", "PIL", "invad_jax", "optax"} & sys.modules.keys()
assert not heavy, heavy
"""


def rewritten(part, path, **changes):
    """A bundle with other parts, whose hashes are right."""
    with zipfile.ZipFile(part) as source:
        content = {name: source.read(name) for name in source.namelist()}
    about = json.loads(content.pop("model.json"))
    for name, value in changes.items():
        (about if name in about else content).update({name: value})
    about["parts"] = {
        name: {"sha256": sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in content.items()
    }
    with zipfile.ZipFile(path, "w") as target:
        for name, data in {"model.json": json.dumps(about).encode(), **content}.items():
            target.writestr(name, data)
    return path


def test_the_bundle_decides_as_the_workdir(white, part, photographs):
    trained, exported = load(white), load(part)
    ours, theirs = (model.predict(map(str, photographs)) for model in (exported, trained))
    np.testing.assert_allclose(ours.image_score, theirs.image_score, atol=1e-5)
    np.testing.assert_array_equal(ours.decision, theirs.decision)
    np.testing.assert_array_equal(ours.threshold, theirs.threshold)
    np.testing.assert_array_equal(ours.normal_percentile, theirs.normal_percentile)
    np.testing.assert_allclose(ours.anomaly_map, theirs.anomaly_map, rtol=1e-5)
    assert ours.component == theirs.component
    assert len(set(ours.component)) == 2
    assert 0 < np.mean(ours.decision) < 1
    for name in ("disc", "weave"):
        assert exported.threshold_at(0.2, name) == trained.threshold_at(0.2, name)


def test_a_bundle_of_before_a_score_had_a_term_is_to_be_exported_again(part, monkeypatch):
    monkeypatch.setattr(bundle, "TERMS", (*bundle.TERMS, "map_std"))
    with pytest.raises(UserError, match="was exported before scores had map_std; export it again"):
        load(part)


def test_without_the_package_it_is_the_same(part, photographs, white, tmp_path):
    trained = load(white)
    images = [preprocess.read_original(path, trained.config.data) for path in photographs[::7]]
    np.save(tmp_path / "images.npy", np.stack(images))
    with zipfile.ZipFile(part) as source:
        source.extract("loader.py", tmp_path)
    subprocess.run(
        [sys.executable, "-c", STANDALONE, str(part), "images.npy", "found.npz"],
        cwd=tmp_path, env={"JAX_PLATFORMS": "cpu", "PATH": ""}, check=True,
    )  # fmt: skip
    expected = trained.predict(images)
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_allclose(found["image_score"], expected.image_score, atol=1e-4)
        np.testing.assert_array_equal(found["decision"], expected.decision)
        np.testing.assert_allclose(found["anomaly_map"], expected.anomaly_map, rtol=1e-4)


def test_any_number_at_a_time(part):
    detector = loader.Detector(part)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    alone = [detector([image])["image_score"][0] for image in images]
    # Sums of other batch sizes are taken in another order.
    np.testing.assert_allclose(detector(images)["image_score"], alone, rtol=1e-5)


WAYS = {
    "published": ["scoring.prior=standard_normal"],
    "nearest_neighbour": ["inversion.paradigm=nearest_neighbour"],
    "retrieval": ["inversion.paradigm=retrieval"],
    "reconstruction": ["inversion.paradigm=reconstruction"],
    "residual": ["inversion.paradigm=residual"],
    "padim": ["inversion.paradigm=padim"],
}


@pytest.fixture(scope="module")
def normals(commands, trained):
    """The images of the training, and those held out of it."""
    data = Workdir(trained).read_config().data
    with mock.patch.dict(os.environ, commands.environment):
        return hold_out(load_dataset(data).train, data.holdout_fraction)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_comparing_is_exported(commands, trained, normals, way, monkeypatch):
    workdir = Workdir(trained)
    config = workdir.resolve(None, WAYS[way])
    expected = load_model(workdir, config)
    calibrations = calibrate(expected, workdir, lambda: normals)
    path = commands.folder / f"{way}.invad"
    packing.pack(workdir, config, path)
    found = bundle.BundleModel(path)
    image = found.pictures.image
    assert len(image) == 4
    ours, theirs = found.predict(image), expected.predict(image)
    # Three pictures are of the training: their distance to themselves is the square root of what is
    # left of two squares of about 60, which float32 has to 7e-6; the nearest neighbour's in other
    # units.
    memory = expected.variables.reference and expected.variables.reference.memory
    zero = 4e-3 * (float(memory.inv_std) if memory else 1.0)
    np.testing.assert_allclose(ours.latent_norm, theirs.latent_norm, rtol=1e-5, atol=zero)
    outputs = found.outputs(image)
    terms = {name: getattr(theirs, name) for name in calibrations.terms}
    score = calibrations.image_score(terms, theirs.component)
    # The model spreads the batch over eight devices, the bundle takes one: sums in another order.
    # These subtract numbers that nearly cancel.
    atol = 2e-3 if way in ("nearest_neighbour", "retrieval", "reconstruction") else 1e-5
    np.testing.assert_allclose(outputs["image_score"], score, rtol=1e-5, atol=atol)
    grid, width = expected.latent_shape[:2], expected.config.denoiser.width
    monkeypatch.setattr(in_parts, "IN_CACHES", 4 * math.prod(grid) * width)
    assert found.batch_size == (4 if found.paradigm.nfe else 8)  # of a CPU alone


def test_predict_takes_either(commands, white, part, photographs, tmp_path):
    rows = []
    for i, model in enumerate((white, part)):
        out = tmp_path / str(i)
        commands.here(
            "predict", "--model", str(model), "--out", str(out), "--no-overlays",
            "--input", *map(str, photographs[:5]),
        )  # fmt: skip
        rows.append(read_csv(out / "predictions.csv"))
    for a, b in zip(*rows, strict=True):
        assert a["decision"] == b["decision"]
        assert float(a["image_score"]) == pytest.approx(float(b["image_score"]), abs=1e-5)


def test_a_rate_can_be_changed_and_nothing_else(part, caplog):
    strict, usual = load(part, ["calibration.false_positive_rate=0.5"]), load(part)
    assert np.all(strict.calibrations.threshold(np.arange(2))
                  < usual.calibrations.threshold(np.arange(2)))  # fmt: skip
    assert "cannot be promised by" in caplog.text  # a hundredth, by 40 images a kind
    with pytest.raises(UserError, match=r"inversion.num_steps: is fixed"):
        load(part, ["inversion.num_steps=5"])
    with pytest.raises(UserError, match="takes images alone"):
        usual.score_latents(np.zeros((1, 2, 2, 3)))


def test_what_it_says_of_itself(part):
    about = loader.Detector(part).about
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["components"] == ["disc", "weave"]
    assert about["config"]["data"]["root"] == ""
    assert 0 <= about["metrics"]["mean"]["i_auroc"] <= 1
    assert about["licences"]["images (procedural)"].startswith("Apache-2.0")
    with zipfile.ZipFile(part) as source:
        assert all(b"pickle" not in source.read(name)[:100] for name in source.namelist())
        normals = json.loads(source.read("normals.json"))
    assert "path" not in normals
    model, calibrations = bundle.BundleModel(part), load(part).calibrations
    assert calibrations.terms == ("map_top",)
    assert model.about["calibration"]["disc"]["threshold"] == calibrations.each[0].threshold


def test_validation_finds_another_detector(commands, part, tmp_path):
    said = commands.here("export", "--validate", str(part)).stdout
    assert "images/s" in said
    pictures = bundle.BundleModel(part).pictures
    other = pictures._replace(image_score=pictures.image_score + 0.01)
    path = rewritten(
        part, tmp_path / "other.invad", **{"pictures.npz": bundle._npz(other._asdict())}
    )
    said = commands.here("export", "--validate", str(path), status=1).stdout
    assert "scores within 1.0e-02" in said


def damaged(part, tmp_path, kind):
    path, data = tmp_path / "bad.invad", part.read_bytes()
    if kind == "flipped":
        at = data.find(b"arrays.npz") + 5000
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "no zip":
        path.write_bytes(b"no zip at all")
    elif kind == "newer":
        rewritten(part, path, format=bundle.FORMAT + 1)
    elif kind == "no json":
        rewritten(part, path, **{"normals.json": b"{"})
    elif kind == "no StableHLO":
        rewritten(part, path, **{"detector.stablehlo": b"nothing"})
    elif kind == "pickled":
        stream = np.lib.format.MAGIC_PREFIX
        rewritten(part, path, **{"arrays.npz": b"\x80\x04" + stream})
    elif kind == "swollen":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
            target.writestr("model.json", b"0" * 10_000_000)
    else:
        with zipfile.ZipFile(path, "w") as target:
            target.writestr("model.json", b"{}")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("flipped", "bad.invad: "),
        ("cut", "no bundle, or damaged"),
        ("no zip", "no bundle, or damaged"),
        ("newer", "newer invad_jax"),
        ("no json", "damaged bundle"),
        ("no StableHLO", "cannot run it"),
        ("pickled", "damaged bundle"),
        ("swollen", "holds more than its size"),
        ("empty", "missing"),
    ],
)
def test_a_damaged_bundle_is_one_line(commands, part, tmp_path, kind, words):
    path = damaged(part, tmp_path, kind)
    assert words in commands.refused("export", "--validate", str(path))


def test_refusals(commands, white, trained, tmp_path):
    assert "give --workdir DIR --out FILE" in commands.refused("export", "--workdir", str(white))
    assert "is a folder" in commands.refused(
        "export", "--workdir", str(white), "--out", str(tmp_path)
    )
    assert "not calibrated" in commands.refused(
        *("export", "--workdir", str(trained), "--out", str(tmp_path / "x")),
        *("--set", "inversion.num_steps=9"),
    )
    assert not list(tmp_path.iterdir())
    both = ["--model", str(white), "--workdir", str(white)]
    assert "give it alone" in commands.refused("predict", *both, "--input", ".", "--out", "x")


def test_images_of_another_machine_are_not_needed(white):
    workdir = Workdir(white)
    model = load(white).model
    images = packing._images(["/nowhere/a.png"], model.config)
    assert images.shape == (1, 64, 64, 3)
    exported = exporting.export(model, calibrate(model, workdir, None))
    assert exported.about["image_size"] == 64


def test_a_bundle_without_photographs(commands, white, part, tmp_path):
    path = tmp_path / "bare.invad"
    arguments = ("--workdir", str(white), "--out", str(path), "--no-photographs")
    assert "1 pictures: " in commands.here("export", *arguments).stdout
    assert len(load(path).model.pictures.image) == 1
    assert len(load(part).model.pictures.image) == 4
