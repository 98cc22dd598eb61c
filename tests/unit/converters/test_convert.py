"""What a folder of the published code says, and how it becomes a config."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import (
    Config,
    DataConfig,
    DenoiserConfig,
    DiffusionConfig,
    EncoderConfig,
    TrainConfig,
)
from invad_jax.convert import cli
from invad_jax.converters.invad_pytorch import check_writable, read_folder
from invad_jax.converters.published import params_to_published
from invad_jax.diffusion.parameterization import to_eps
from invad_jax.diffusion.schedule import alpha_bar_schedule
from invad_jax.errors import UserError
from invad_jax.inference.assembly import abstract_params
from invad_jax.io import files
from invad_jax.io.tensors import read_tensors, write_tensors
from tests.parameters import random_like

GUIDED = ("--from", "guided-diffusion", "--input", "absent.pt")
NETWORKS = {
    "dit": DenoiserConfig(name="dit", width=16, depth=1, num_heads=4),
    "mlp": DenoiserConfig(name="mlp", width=16, depth=1),
    "unet": DenoiserConfig(
        name="unet", width=32, num_res_blocks=1, channel_mult=(1, 2),
        attention_downsamplings=(2,), head_channels=16,
    ),
}  # fmt: skip


def folder_of(tmp_path, kind, settings=""):
    params = random_like(abstract_params(Config(denoiser=NETWORKS[kind]), (6, 6, 5)))
    write_tensors(tmp_path / "model_latest.pth", params_to_published(params, NETWORKS[kind]))
    if settings:
        (tmp_path / "config.yaml").write_text(settings)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "settings", "latent_size", "grid"),
    [
        ("dit", "", None, 6),  # its positions say so, whatever the settings say
        ("dit", "{data: {img_size: 256}, backbone: {stride: 16}}", None, 6),
        ("dit", "", 6, 6),
        ("mlp", "", None, 16),
        ("mlp", "{data: {img_size: 64}}", None, 4),
        ("mlp", "{data: {img_size: 64}, backbone: {stride: 8}}", None, 8),
        ("mlp", "{data: {img_size: 64}}", 3, 3),
    ],
)
def test_where_the_grid_comes_from(tmp_path, kind, settings, latent_size, grid):
    converted = read_folder(folder_of(tmp_path, kind, settings), None, {}, latent_size)
    assert converted.latent_shape == (grid, grid, 5)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("what", ["absent", "scalar", "empty", "short", "flat", "deep"])
def test_any_tensor_from_which_sizes_are_read_may_be_wrong(tmp_path, kind, what):
    path = folder_of(tmp_path, kind) / "model_latest.pth"
    whole = read_tensors(path)
    sized = {
        "net.pos_embed", "net.x_embedder.proj.weight", "net.blocks.0.mlp.fc1.weight",
        "net.input_proj.weight", "net.input_blocks.0.0.weight",
        "net.input_blocks.1.0.in_layers.2.weight", "net.input_blocks.2.0.op.weight",
    }  # fmt: skip
    for key in sized & whole.keys():
        tensor = whole[key]
        wrong = {
            "absent": None, "scalar": np.zeros((), np.float32), "empty": tensor[:0],
            "short": tensor[:, :-1], "flat": tensor.reshape(-1), "deep": tensor[None],
        }[what]  # fmt: skip
        tensors = {k: v for k, v in (whole | {key: wrong}).items() if v is not None}
        write_tensors(path, tensors)
        with pytest.raises(UserError) as caught:
            read_folder(tmp_path, None, {"head_channels": 16}, None)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_settings_become_the_config(tmp_path):
    settings = """
data: {dataset_name: mpdd_all, data_root: data/mpdd, category: [tubes, connector], img_size: 128}
backbone: {model_type: efficientnet-b0, outblocks: [1, 2]}
diffusion: {model_type: dit, width: 16, depth: 1, num_heads: 2}
evaluation: {eval_step: 5}
"""
    config = read_folder(folder_of(tmp_path, "dit", settings), None, {}, None).config
    assert (config.data.name, config.data.root) == ("mvtec", "data/mpdd")
    assert (config.data.categories, config.data.image_size) == (("tubes", "connector"), 128)
    assert (config.encoder.name, config.encoder.stages) == ("efficientnet_b0", (1, 2))
    assert (config.denoiser.num_heads, config.inversion.num_steps) == (2, 5)
    assert config.data.holdout_fraction == 0


def test_without_settings_the_published_system_is_assumed(tmp_path):
    config = read_folder(folder_of(tmp_path, "dit"), None, {}, None).config
    assert (config.encoder.name, config.data.image_size) == ("efficientnet_b4", 256)
    assert (config.denoiser.num_heads, config.inversion.num_steps) == (8, 3)


def test_the_heads_of_a_unet_are_asked_for(tmp_path):
    folder_of(tmp_path, "unet")
    with pytest.raises(UserError, match="U-Net of width 32; give --head-channels"):
        read_folder(tmp_path, None, {}, None)
    converted = read_folder(tmp_path, None, {"head_channels": 16}, None)
    assert converted.config.denoiser == NETWORKS["unet"]


@pytest.mark.parametrize(
    ("kind", "settings", "latent_size", "message"),
    [
        ("dit", "", 5, "--latent-size 5: the positions"),
        ("mlp", "diffusion: {depth: 2}", None, "depth 1, and its config.yaml says 2"),
        ("mlp", "diffusion: {model_type: dit}", None, "name mlp, and its config.yaml says dit"),
        ("mlp", "data: {img_size: big}", None, "data.img_size: 'big' is not of type int"),
        ("mlp", "[1, 2]", None, "expected sections"),
        ("mlp", "data: 7", None, "data: expected options"),
        ("mlp", "a: [", None, "not a readable settings file"),
    ],
)
def test_contradictions_are_refused(tmp_path, kind, settings, latent_size, message):
    with pytest.raises(UserError, match=message) as caught:
        read_folder(folder_of(tmp_path, kind, settings), None, {}, latent_size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "option"),
    [
        (Config(), "latent_stats=channel"),
        (Config(train=TrainConfig(latent_stats="none"),
                diffusion=DiffusionConfig(betas=(1e-4, 0.01))), "diffusion"),
        (Config(train=TrainConfig(latent_stats="none"),
                denoiser=DenoiserConfig(name="dit_diffusers")), "name=dit_diffusers"),
        (Config(train=TrainConfig(latent_stats="none"),
                denoiser=DenoiserConfig(name="unet", variants=("pad_at_end",))), "pad_at_end"),
        (Config(train=TrainConfig(latent_stats="none", objective="one_step")), "one_step"),
        (Config(train=TrainConfig(latent_stats="none"), encoder=EncoderConfig(pool=2)), "pool=2"),
        (Config(train=TrainConfig(latent_stats="none"),
                data=DataConfig(aspect="letterbox")), "letterbox: .* has only stretch"),
    ],
)  # fmt: skip
def test_what_the_published_code_cannot_say_is_not_written(config, option, tmp_path):
    with pytest.raises(UserError, match=option):
        check_writable(config, tmp_path)


def test_a_folder_is_whole_or_absent(tmp_path):
    with pytest.raises(FileNotFoundError), files.new_folder(tmp_path / "a") as folder:
        (folder / "absent" / "file").touch()
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty").mkdir()
    with files.new_folder(tmp_path / "empty") as folder:
        (folder / "whole").touch()
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["whole"]
    with pytest.raises(UserError, match="exists already"), files.new_folder(tmp_path / "empty"):
        pass


def test_the_example_of_the_plug_and_play_page_runs():
    page = (Path(__file__).resolve().parents[3] / "docs" / "plug_and_play.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert np.isfinite(names["scores"].nll).all()
    assert len(set(names["scores"].map_range.tolist())) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "diffusers", "--input", "absent"), "config.json: cannot be read"),
        (GUIDED, "give --latent-size"),
        ((*GUIDED, "--latent-size", "8"), "give --head-channels"),
        ((*GUIDED, "--latent-size", "8", "--head-channels", "64"), "absent.pt"),
        ((*GUIDED, "--num-heads", "4"), "--num-heads: is not asked by --from guided-diffusion"),
        (("--from", "diffusers", "--input", "x", "--head-channels", "8"), "--head-channels: is no"),
        (("--from", "mad-ad", "--input", "x", "--which", "ema"), "--which: is not asked by"),
        (
            ("--to", "invad-pytorch", "--output", "x", "--set", "train.seed=1"),
            "--set: is not asked",
        ),
        (("--from", "diffusers", "--input", "x", "--output", "y"), "--output: is not asked by"),
        (("--to", "invad-pytorch", "--output", "x", "--num-heads", "8"), "by --to invad-pytorch"),
        (("--from", "elsewhere", "--input", "absent"), "invalid choice"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli([*arguments, "--workdir", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("prediction", ["eps", "v", "sample"])
def test_every_prediction_becomes_the_noise(prediction):
    """From the definitions: x_t of a known x0 and noise."""
    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 3, 2, 2, 4), np.float32)
    alpha_bar, t = np.array([0.9, 0.5, 0.1], np.float32), np.array([2, 0, 1])
    signal, spread = (np.sqrt(a)[t][:, None, None, None] for a in (alpha_bar, 1 - alpha_bar))
    output = {"eps": noise, "v": signal * noise - spread * x0, "sample": x0}[prediction]
    eps = to_eps(prediction, signal * x0 + spread * noise, output, t, jnp.asarray(alpha_bar))
    np.testing.assert_allclose(eps, noise, atol=1e-5)  # a few float32 roundings of numbers near 3


def test_cosine_is_the_squared_cosine_until_its_betas_are_cut():
    alpha_bar = alpha_bar_schedule("cosine", 1000)
    u = np.arange(1, 999) / 1000
    expected = (np.cos((u + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2
    np.testing.assert_allclose(alpha_bar[:998], expected, rtol=1e-9)  # a float64 product of 1000
    assert alpha_bar[-1] / alpha_bar[-2] == pytest.approx(1e-3)


def test_scaled_linear_betas_meet_their_ends():
    alpha_bar = alpha_bar_schedule("scaled_linear", 1000, (1e-4, 0.02))
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    assert 1 - alpha_bar[0] == pytest.approx(1e-4)
    assert betas[-1] == pytest.approx(0.02)
    np.testing.assert_allclose(np.diff(np.sqrt(betas), 2), 0, atol=1e-12)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="linear, scaled_linear, cosine, sigmoid, given"):
        alpha_bar_schedule("exponential", 10, (0.1, 0.2))
    with pytest.raises(ValueError, match="eps, v, sample"):
        to_eps("score", jnp.zeros(1), jnp.zeros(1), jnp.zeros(1, int), jnp.ones(1))
