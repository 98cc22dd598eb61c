"""Models and schedulers of Hugging Face diffusers, on tiny random weights, through the command."""

import itertools
import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

import invad_jax
from invad_jax.convert import cli
from invad_jax.diffusion.inversion import invert_trajectory
from invad_jax.diffusion.parameterization import to_eps
from invad_jax.diffusion.schedule import alpha_bar_schedule, make_plan
from invad_jax.tensor_files import read_tensors, write_tensors

torch = pytest.importorskip("torch", reason="the oracle needs torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle")
try:
    from diffusers import DDIMInverseScheduler, DDIMScheduler, UNet2DModel
except (ImportError, RuntimeError) as error:
    pytest.skip(f"diffusers cannot be imported: {error}", allow_module_level=True)

FAMILIES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "sample"}


def unet(**changes):
    torch.manual_seed(0)
    options = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
        "block_out_channels": (64, 128), "attention_head_dim": 16,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    return UNet2DModel(**(options | changes)).eval()


def convert(folder, workdir, *options):
    return cli(["--from", "diffusers", "--input", str(folder), "--workdir", str(workdir), *options])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a model with attention on one level."""
    folder = tmp_path_factory.mktemp("diffusers")
    unet().save_pretrained(folder)
    return folder


def copied(saved, folder):
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers_per_block": 2, "block_out_channels": (64, 64, 64), "attention_head_dim": 64,
         "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
         "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D")},
    ],
)  # fmt: skip
def test_unet_gives_the_same_output(tmp_path, changes):
    model = unet(**changes)
    model.save_pretrained(tmp_path / "model")
    assert convert(tmp_path / "model", tmp_path / "run") == 0
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((3, 4, 8, 8), np.float32), np.array([0, 500, 999])
    with torch.no_grad():
        expected = model(torch.from_numpy(x), torch.from_numpy(t)).sample.numpy()
    eps = invad_jax.load(tmp_path / "run").denoise(x.transpose(0, 2, 3, 1), t)
    error = np.abs(eps.transpose(0, 3, 1, 2) - expected).max()
    assert error < 1e-5 * np.abs(expected).max()  # float32 sums in another order, some 20 layers


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_scheduler_config_says_what_is_predicted(saved, tmp_path, prediction):
    folder = copied(saved, tmp_path / "model")
    scheduler = DDIMScheduler(
        num_train_timesteps=500, beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=0.012,
        prediction_type=prediction, clip_sample=False, set_alpha_to_one=True,
    )  # fmt: skip
    scheduler.save_pretrained(folder / "scheduler")
    assert convert(folder, tmp_path / "run") == 0
    model = invad_jax.load(tmp_path / "run", ["inversion.num_steps=2"])
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8), np.float32)
    with torch.no_grad():
        output = unet()(torch.from_numpy(x), 250).sample
    # The scheduler's own eps: step down to t = 249 without noise and solve for it.
    scheduler.set_timesteps(500)
    step = scheduler.step(output, 250, torch.from_numpy(x))
    level, x0_hat = scheduler.alphas_cumprod[250], step.pred_original_sample
    expected = ((torch.from_numpy(x) - level**0.5 * x0_hat) / (1 - level) ** 0.5).numpy()
    eps = model.denoise(x.transpose(0, 2, 3, 1), 250).transpose(0, 3, 1, 2)
    # As above, and float32 rounding of x0_hat, which the division returns.
    assert np.abs(eps - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_schedules(family):
    theirs = DDIMScheduler(beta_schedule=family, beta_start=1e-4, beta_end=0.02).alphas_cumprod
    ours = alpha_bar_schedule(FAMILIES[family], 1000, 1e-4, 0.02)
    # Theirs is a float32 product of 1000 factors, each rounded; the last cosine one is 1e-3.
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-4)


def network(x, t):
    """Anything nonlinear that both frameworks' arrays support."""
    return (x * (1.0 + t / 500)) / (1.0 + abs(x)) + 0.1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_inverse_scheduler_trajectory(family, prediction):
    """Their step to level t, given the network at the level below, is our Euler step."""
    scheduler = DDIMInverseScheduler(
        beta_schedule=family, beta_start=1e-4, beta_end=0.02, prediction_type=prediction,
        clip_sample=False,
    )  # fmt: skip
    scheduler.set_timesteps(5)
    x0 = np.random.default_rng(0).standard_normal((2, 4, 4, 3), np.float32)
    levels = [0, 200, 400, 600, 800]
    expected = [torch.from_numpy(x0)]
    for start, end in itertools.pairwise(levels):
        output = network(expected[-1], start)
        expected.append(scheduler.step(output, end, expected[-1]).prev_sample)
    alpha_bar = alpha_bar_schedule(FAMILIES[family], 1000, 1e-4, 0.02)
    plan = make_plan(alpha_bar, np.array(levels[:-1]), final_alpha_bar=alpha_bar[800])
    table = jnp.asarray(alpha_bar, jnp.float32)

    def eps_fn(x, t):
        output = network(x, t[:, None, None, None])
        return to_eps(PREDICTIONS[prediction], x, output, t, table)

    states, _ = invert_trajectory(eps_fn, jnp.asarray(x0), plan)
    expected = np.stack([state.numpy() for state in expected])
    # At t = 0 the cosine's 1 - alpha_bar is 4e-5, of which a float32 rounding of alpha_bar is
    # 1.5e-3: half of that in the root by which a predicted sample is divided.
    assert np.abs(states - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("freq_shift", 1), ("flip_sin_to_cos", False), ("norm_eps", 1e-6), ("norm_num_groups", 16),
        ("downsample_padding", 0), ("class_embed_type", "timestep"),
        ("resnet_time_scale_shift", "scale_shift"), ("add_attention", False),
        ("_class_name", "DiTTransformer2DModel"), ("out_channels", 8),
        ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"]),
        ("up_block_types", ["UpBlock2D", "UpBlock2D"]), ("block_out_channels", [64, 96]),
        ("attention_head_dim", None), ("sample_size", None),
    ],
)  # fmt: skip
def test_another_architecture_is_refused_by_name(saved, tmp_path, capsys, option, value):
    folder = copied(saved, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {option: value}
    if option == "attention_head_dim":
        config |= {
            "down_block_types": ["AttnDownBlock2D"] * 2,
            "up_block_types": ["AttnUpBlock2D"] * 2,
        }
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, tmp_path, capsys, str(value) if "class_name" in option else option)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("trained_betas", [0.1]), ("rescale_betas_zero_snr", True), ("beta_schedule", "sigmoid"),
        ("prediction_type", "flow"),
    ],
)  # fmt: skip
def test_another_process_is_refused_by_name(saved, tmp_path, capsys, option, value):
    folder = copied(saved, tmp_path / "model")
    (folder / "scheduler_config.json").write_text(json.dumps({option: value}))
    refused(folder, tmp_path, capsys, option)


@pytest.mark.parametrize("what", ["missing", "unexpected", "misshapen", "malicious", "none"])
def test_wrong_tensors_are_refused(saved, tmp_path, capsys, what):
    folder = copied(saved, tmp_path / "model")
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors, key = read_tensors(path), "mid_block.attentions.0.to_q.weight"
    message = key
    if what == "missing":
        del tensors[key]
    elif what == "unexpected":
        message = "down_blocks.0.extra"
        tensors[message] = np.zeros(1, np.float32)
    elif what == "misshapen":
        message = "do not fit each other"
        tensors[key] = tensors[key][:-1]
    path.unlink()
    if what == "malicious":
        message = "refused: the file would run"
        (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(print))
    elif what == "none":
        message = "holds no diffusion_pytorch_model.safetensors or"
    else:
        write_tensors(path, tensors)
    refused(folder, tmp_path, capsys, message)


def refused(folder, tmp_path, capsys, message):
    assert convert(folder, tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
