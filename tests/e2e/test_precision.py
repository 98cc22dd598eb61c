"""bfloat16, as accelerators score by default, against float32: the same decisions."""

import shutil

import numpy as np
import pytest

from invad_jax.data import layouts
from invad_jax.evaluation import ground_truth
from invad_jax.evaluation.evaluate import evaluate
from invad_jax.inference import load
from invad_jax.inference.assembly import for_scoring
from invad_jax.inference.calibrate import calibrate
from invad_jax.io import files
from invad_jax.io.downloads import cache_dir
from invad_jax.runtime.workdir import Workdir
from tests.commands import WHITE, training

WEIGHTS = "efficientnet-lite0-57934424.pth"


@pytest.fixture(scope="module")
def cookies(commands, shared_dir):
    """Photographs, published features, our own way of comparing them, a network that is kept."""
    weights = cache_dir() / "weights" / "efficientnet_lite0" / WEIGHTS
    if not weights.is_file():
        pytest.skip(f"{weights} is not there: train configs/hazelnut.py once")
    run = commands.folder / "cookies"
    options = (
        *("data.name=mvtec", f"data.root={shared_dir / 'data'}", "data.categories=aws_cookie"),
        *(f"encoder.weights={weights}", "inversion.solver=angle", *WHITE, "train.num_steps=40"),
        *("train.learning_rate=1e-3", "train.checkpoint_every=40", "data.holdout_fraction=0"),
        "calibration.false_positive_rate=0.2",
    )
    commands.here(*training(run, *options))
    return Workdir(run)


def evaluated(workdir, *options):
    """Precision, decisions, scores and metrics."""
    config = workdir.resolve(None, options)
    model, dataset = load.load_model(workdir, config), layouts.load_dataset(config.data)
    fitted = calibrate(model, workdir, lambda: (dataset.train, ()))
    found = evaluate(model, fitted, dataset.test)
    tables, _ = ground_truth.metric_tables(found.truth, found.latent_norm, found.image_score)
    score = found.image_score["calibrated"]
    return model.config.denoiser.dtype, found.decision, score, tables["calibrated"]["mean"]


def swapped(config, platform):
    """As if the devices here were the others."""
    return for_scoring(config, {"cpu": "gpu", "gpu": "cpu"}[platform])


@pytest.fixture(scope="module")
def both(cookies):
    """As this device scores, and as others do."""
    return evaluated(cookies), evaluated(cookies, "denoiser.dtype=bfloat16")


def test_decisions_and_metrics_hold(both):
    exact, (precision, decision, score, mean) = both
    assert exact[0] == "float32"
    assert precision == "bfloat16"
    apart = np.abs(score - exact[2]).max() / exact[2].std()
    assert 1e-5 < apart < 0.05  # the mantissa has 8 bits; and it is another precision
    np.testing.assert_array_equal(decision, exact[1])
    assert 0 < decision.sum() < len(decision)
    for name in ("i_auroc", "p_auroc"):
        assert mean[name] == pytest.approx(exact[3][name], abs=1e-3)


def test_thresholds_keep_their_precision_on_other_devices(cookies, both, monkeypatch, tmp_path):
    run = Workdir(tmp_path / "run")
    shutil.copytree(cookies.path, run.path)

    def precision():
        return load.load_model(run, run.resolve(None, [])).config.denoiser.dtype

    assert files.read_json(run.precision) == {"dtype": "float32"}  # bfloat16 came later
    monkeypatch.setattr(load, "for_scoring", swapped)
    assert precision() == "float32"
    model = load.load_model(run, run.resolve(None, ["denoiser.dtype=bfloat16"]))
    assert model.config.denoiser.dtype == "bfloat16"  # of this call
    model = load.with_options(model, run, run.resolve(None, ["inversion.num_steps=1"]))
    assert model.config.denoiser.dtype == "float32"  # of a way that is not calibrated yet, too

    shutil.rmtree(run.path / "normals")  # nothing is calibrated
    assert precision() == "bfloat16"
