"""Published checkpoints through the public path: convert, load, score, evaluate, write back."""

import functools
import json
import pickle
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import invad_jax
from invad_jax.config import Config, DenoiserConfig
from invad_jax.convert import cli
from invad_jax.converters.published import params_to_published
from invad_jax.encoders import kept
from invad_jax.errors import UserError
from invad_jax.inference.assembly import init_params
from invad_jax.io.tensors import read_tensors, write_tensors
from invad_jax.normality.calibration import test_minmax as minmax_fusion
from invad_jax.paradigms.levels import rising_plan

# What to expect in float32: 1e-4 of the largest value on network outputs and states, 1e-3 on
# scores, which sum up thousands of them.
STATE_TOLERANCE, SCORE_TOLERANCE = 1e-4, 1e-3
OPTIONS = {
    "dit": ("--set", "data.image_size=32"),  # the golden anomaly maps are 32 x 32
    "mlp": ("--set", "data.image_size=32"),
    "unet": ("--head-channels", "16"),
}


def convert(*arguments):
    return cli([str(argument) for argument in arguments])


def from_published(folder, workdir, *options):
    return convert("--from", "invad-pytorch", "--input", folder, "--workdir", workdir, *options)


def nhwc(array):
    return np.moveaxis(array, -3, -1)


def relative_error(actual, expected):
    return np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def converted(golden_dir, tmp_path_factory):
    """kind -> (workdir, golden numbers), each converted once."""
    root = tmp_path_factory.mktemp("converted")

    def get(kind):
        folder = golden_dir / f"official_{kind}"
        if not (root / kind).exists():
            assert from_published(folder, root / kind, *OPTIONS[kind]) == 0
        return root / kind, np.load(folder / "expected.npz")

    return get


@pytest.mark.parametrize("kind", ["dit", "mlp"])
@pytest.mark.parametrize("num_steps", [2, 3, 5, 10])
def test_published_scores_by_the_public_path(converted, kind, num_steps):
    workdir, golden = converted(kind)
    model = invad_jax.load(workdir, [f"inversion.num_steps={num_steps}"])
    scores = model.score_latents(nhwc(golden["x0"]))
    prefix = f"S{num_steps}__"
    expected = nhwc(golden[f"{prefix}trajectory"][-1])
    assert relative_error(scores.x_T, expected) < STATE_TOLERANCE
    for name, key in [
        ("latent_norm", "latent_norm"), ("map_range", "map_range"), ("nll", "nll"),
        ("anomaly_map", "anomaly_map_32"),
    ]:  # fmt: skip
        error = relative_error(getattr(scores, name), golden[prefix + key])
        assert error < SCORE_TOLERANCE, name
    fused = minmax_fusion(scores.nll, scores.map_range, ["one"] * len(scores.nll))
    assert relative_error(fused, golden[f"{prefix}image_score_test_minmax"]) < SCORE_TOLERANCE


@pytest.mark.parametrize("kind", ["dit", "mlp"])
def test_the_published_trajectory_by_the_public_path(converted, kind):
    workdir, golden = converted(kind)
    model = invad_jax.load(workdir)
    states = model.trajectory(nhwc(golden["x0"]), num_steps=3)
    expected = nhwc(golden["S3__trajectory"])
    assert relative_error(states[-len(expected) :], expected) < STATE_TOLERANCE
    assert relative_error(states[-1], model.score_latents(nhwc(golden["x0"])).x_T) < 1e-6
    with pytest.raises(UserError, match=r"noise: inversion.paradigm=inversion takes no such"):
        model.trajectory(nhwc(golden["x0"]), noise=np.zeros((3, 1, 1, 1, 1)))


def test_published_unet_output_by_the_public_path(converted):
    workdir, golden = converted("unet")
    eps = invad_jax.load(workdir).denoise(nhwc(golden["x"]), golden["t"])
    assert relative_error(eps, nhwc(golden["y"])) < STATE_TOLERANCE


def test_published_settings_are_the_default_of_a_converted_workdir(converted):
    workdir, _ = converted("dit")
    model = invad_jax.load(workdir)
    plan = rising_plan(model.config)
    assert plan.timesteps.tolist() == [0, 500, 999]
    assert plan.alpha_bar_next[-1] == 0
    config = model.config
    assert (config.train.latent_stats, config.inversion.use_ema) == ("none", False)
    assert config.scoring.prior == "standard_normal"
    assert (config.encoder.name, config.encoder.stages) == ("efficientnet_b4", (1, 5, 9, 21))
    assert (config.data.name, config.data.categories) == ("mvtec", ("all",))


def test_latents_of_another_shape_are_refused(converted):
    model = invad_jax.load(converted("dit")[0])
    for shape in [(2, 4, 4, 24), (2, 8, 8, 23), (8, 8, 24)]:
        with pytest.raises(UserError, match=r"expected \(B, 8, 8, 24\)"):
            model.score_latents(np.zeros(shape, np.float32))


@pytest.mark.parametrize("kind", ["dit", "mlp", "unet"])
def test_there_and_back_is_bit_exact(converted, golden_dir, tmp_path, kind):
    """torch reads it: tests/parity/test_torch_files.py."""
    workdir, _ = converted(kind)
    assert convert("--to", "invad-pytorch", "--workdir", workdir, "--output", tmp_path / "b") == 0
    original = read_tensors(golden_dir / f"official_{kind}" / "model_latest.pth")
    for name in ("model_latest.pth", "model_ema_latest.pth"):
        back = read_tensors(tmp_path / "b" / name)
        assert back.keys() == original.keys()
        for key, tensor in original.items():
            np.testing.assert_array_equal(back[key], tensor, strict=True)
    settings = golden_dir / f"official_{kind}" / "config.yaml"
    if settings.exists():
        assert (tmp_path / "b" / "config.yaml").read_bytes() == settings.read_bytes()


@pytest.fixture
def adm(golden_dir):
    """The U-Net as guided diffusion itself would save it."""
    tensors = read_tensors(golden_dir / "official_unet" / "model_latest.pth")
    return {key.removeprefix("net."): value for key, value in tensors.items()}


def from_guided(tensors, tmp_path):
    write_tensors(tmp_path / "model.pt", tensors)
    return convert(
        "--from", "guided-diffusion", "--input", tmp_path / "model.pt", "--workdir",
        tmp_path / "run", "--latent-size", 8, "--head-channels", 16,
        "--set", "diffusion.schedule=cosine",
    )  # fmt: skip


@pytest.mark.parametrize("learned_variance", [False, True])
def test_guided_diffusion_gives_the_published_output(adm, golden_dir, tmp_path, learned_variance):
    if learned_variance:
        for key in ("out.2.weight", "out.2.bias"):
            adm[key] = np.concatenate([adm[key], np.ones_like(adm[key])])
    assert from_guided(adm, tmp_path) == 0
    golden = np.load(golden_dir / "official_unet" / "expected.npz")
    model = invad_jax.load(tmp_path / "run")
    eps = model.denoise(nhwc(golden["x"]), golden["t"])
    assert relative_error(eps, nhwc(golden["y"])) < STATE_TOLERANCE
    assert model.config.diffusion.schedule == "cosine"


# From here on nothing needs the golden folder: published checkpoints of our own making.

LATENT_SHAPE = (4, 4, 192)  # of efficientnet_lite0 at 64 x 64
NETWORK = DenoiserConfig(width=32, depth=2, num_heads=8)


def published_tensors(seed):
    params = init_params(Config(denoiser=NETWORK), LATENT_SHAPE, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape, np.float32), params)
    return params_to_published(params, NETWORK)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """All three files, the best one as DistributedDataParallel writes it."""
    folder = tmp_path_factory.mktemp("published")
    write_tensors(folder / "model_latest.pth", published_tensors(0))
    write_tensors(folder / "model_ema_latest.pth", published_tensors(1))
    best = {f"module.{key}": value for key, value in published_tensors(2).items()}
    write_tensors(folder / "model_best.pth", best)
    return folder


def network(workdir, use_ema):
    """The parameters by which images are scored."""
    return jax.device_get(invad_jax.load(workdir, [f"inversion.use_ema={use_ema}"]).network)


def test_which_file_is_evaluated(published, tmp_path):
    results = {}
    assert_equal = functools.partial(jax.tree.map, np.testing.assert_array_equal)
    for which in ("latest", "ema", "best"):
        assert from_published(published, tmp_path / which, "--which", which) == 0
        results[which] = network(tmp_path / which, use_ema=False)
    assert_equal(network(tmp_path / "latest", use_ema=True), results["ema"])
    only_best = tmp_path / "only_best"
    only_best.mkdir()
    shutil.copy(published / "model_best.pth", only_best)
    assert from_published(only_best, tmp_path / "default") == 0
    for use_ema in (False, True):  # no average was kept: both are the one file
        assert_equal(network(tmp_path / "default", use_ema), results["best"])
    leaves = [jax.tree.leaves(results[which]) for which in ("latest", "ema", "best")]
    for one, *others in zip(*leaves, strict=True):
        assert not any(np.allclose(one, other) for other in others)


def test_eval_and_predict_use_a_converted_workdir(published, commands, monkeypatch):
    commands.here(
        "convert", "--from", "invad-pytorch", "--input", str(published), "--workdir", "theirs",
        "--set", "encoder.name=efficientnet_lite0", "encoder.weights=random",
        "data.name=procedural", "data.image_size=64", "eval.batch_size=8",
    )  # fmt: skip
    copies = []
    monkeypatch.setattr(kept, "keep", lambda config, folder: copies.append(folder))
    commands.here("eval", "--workdir", "theirs", "--no-speed")
    assert copies == [Path("theirs/encoder")]  # predict needs nothing else then
    payload = json.loads((commands.folder / "theirs" / "eval" / "metrics.json").read_text())
    assert (payload["step"], payload["nfe"]) == (0, 3)
    assert set(payload["fusion"]) == {"calibrated", "test_minmax"}
    rows = (commands.folder / "theirs" / "eval" / "scores.csv").read_text().splitlines()
    image = rows[1].split(",")[0]
    commands.here("predict", "--workdir", "theirs", "--input", image, "--out", "their_decision")
    assert (commands.folder / "their_decision" / "predictions.csv").exists()


def test_an_encoder_with_other_latents_is_refused_only_for_images(published, tmp_path):
    assert from_published(
        published, tmp_path / "run", "--set", "encoder.name=efficientnet_lite0",
        "encoder.weights=random", "data.image_size=32",
    ) == 0  # fmt: skip
    model = invad_jax.load(tmp_path / "run")
    assert model.score_latents(np.zeros((1, *LATENT_SHAPE))).nll.shape == (1,)
    with pytest.raises(UserError, match=r"encoder.name=efficientnet_lite0: gives latents \(2, 2"):
        model.predict(np.zeros((1, 32, 32, 3), np.uint8))


class RunsCode:
    """What a pickle names is run when it is loaded."""

    def __reduce__(self):
        return (print, ("this must never be printed",))


def damaged(folder, what):
    """Makes `model_latest.pth` wrong in one way."""
    path = folder / "model_latest.pth"
    tensors = read_tensors(path)
    key = "net.blocks.1.attn.proj.weight"
    if what == "malicious":
        path.write_bytes(pickle.dumps({"net": RunsCode()}))
    elif what == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif what == "missing":
        del tensors[key]
    elif what == "missing positions":
        del tensors["net.pos_embed"]
    elif what == "extra":
        tensors["net.blocks.1.gate"] = np.zeros(3, np.float32)
    elif what == "misshapen":
        tensors[key] = tensors[key][:-1]
    elif what == "a whole layer":
        tensors = {k: v for k, v in tensors.items() if ".blocks.1." not in k}
        (folder / "config.yaml").write_text("diffusion: {model_type: dit, width: 32, depth: 2}")
    elif what == "settings":
        (folder / "config.yaml").write_text("!!python/object/apply:os.system ['true']")
    if what not in ("malicious", "truncated"):
        write_tensors(path, tensors)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("malicious", "refused: the file would run"),
        ("truncated", "damaged"),
        ("missing", "missing: net.blocks.1.attn.proj.weight"),
        ("missing positions", "missing: net.pos_embed"),
        ("extra", "unexpected: net.blocks.1.gate"),
        ("misshapen", "net.blocks.1.attn.proj.weight is (31, 32), expected (32, 32)"),
        ("a whole layer", "of depth 1, and its config.yaml says 2"),
        ("settings", "config.yaml: not a readable settings file"),
    ],
)
def test_a_wrong_folder_is_one_line_and_nothing_is_written(
    published, tmp_path, capfd, what, message
):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(published / "model_latest.pth", folder)
    damaged(folder, what)
    assert from_published(folder, tmp_path / "run") == 2
    out, err = capfd.readouterr()
    assert "never be printed" not in out + err
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert str(folder) in line
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_damaged_average_is_refused_too(published, tmp_path, capsys):
    folder = tmp_path / "in"
    shutil.copytree(published, folder)
    (folder / "model_ema_latest.pth").write_bytes(b"PK")
    assert from_published(folder, tmp_path / "run") == 2
    assert "model_ema_latest.pth" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_used_workdir_is_left_alone(published, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("mine")
    assert from_published(published, tmp_path / "run") == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


def test_standardised_models_cannot_be_written_back(trained, tmp_path, capsys):
    done = convert("--to", "invad-pytorch", "--workdir", trained, "--output", tmp_path / "back")
    assert done == 2
    assert "train.latent_stats=channel" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --from and --input"),
        (("--from", "invad-pytorch"), "--workdir"),
        (("--from", "invad-pytorch", "--workdir", "run"), "--input"),
        (("--from", "invad-pytorch", "--workdir", "run", "--input", "absent"), "no such folder"),
        (("--from", "invad-pytorch", "--workdir", "run", "--input", "."), "model_latest.pth"),
        (("--to", "invad-pytorch", "--workdir", "run"), "--output"),
        (("--to", "invad-pytorch", "--workdir", "run", "--output", "x"), "not a workdir"),
    ],
)
def test_what_the_user_got_wrong(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert convert(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
