"""Models and schedulers of Hugging Face diffusers, on tiny random weights, through the command."""

import itertools
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import invad_jax
from invad_jax.config.io import override
from invad_jax.convert import cli
from invad_jax.converters.diffusers_folder import read_folder
from invad_jax.diffusion.inversion import invert
from invad_jax.diffusion.parameterization import to_eps
from invad_jax.diffusion.schedule import Plan, alpha_bar_schedule, make_plan, with_zero_terminal_snr
from invad_jax.errors import UserError
from invad_jax.inference.load import load_model
from invad_jax.io.tensors import read_tensors, write_tensors
from invad_jax.paradigms.levels import alpha_bar_of, rising_plan
from invad_jax.runtime.workdir import Workdir

torch = pytest.importorskip("torch", reason="the oracle needs torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle")
try:
    from diffusers import (
        DDIMInverseScheduler,
        DDIMScheduler,
        DDPMScheduler,
        DiTTransformer2DModel,
        UNet2DModel,
    )
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


UNETS = {
    "default": {"layers_per_block": 2},
    # As google/ddpm-cifar10-32 and -celebahq-256 have it: the first diffusion models.
    "ddpm": {
        "attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False,
        "freq_shift": 1, "norm_eps": 1e-6, "block_out_channels": (64, 64, 128),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    # As guided diffusion's own models: residual blocks resample, and the timestep scales.
    "adm": {
        "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 16, "norm_num_groups": 16,
        "downsample_type": "resnet", "upsample_type": "resnet", "out_channels": 8,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"), "num_class_embeds": 3,
    },
    "no_attention": {
        "add_attention": False, "center_input_sample": True, "block_out_channels": (64,),
        "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",),
        "time_embedding_dim": 256,
    },
}  # fmt: skip


def outputs(model, workdir, **condition):
    """What the library and the converted workdir give for the same input, both (B, C, h, w)."""
    rng = np.random.default_rng(0)
    size, channels = model.config.sample_size, model.config.in_channels
    x = rng.standard_normal((3, channels, size, size), np.float32)
    t = np.array([0, 500, 999])
    with torch.no_grad():
        labels = {name: torch.full((3,), value) for name, value in condition.items()}
        theirs = model(torch.from_numpy(x), torch.from_numpy(t), **labels).sample.numpy()
    ours = invad_jax.load(workdir).denoise(x.transpose(0, 2, 3, 1), t).transpose(0, 3, 1, 2)
    return theirs[:, :channels], ours


def assert_same(theirs, ours):
    # float32 sums in another order, through some 20 layers
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("kind", UNETS)
def test_unet_gives_the_same_output(tmp_path, kind):
    model = unet(**UNETS[kind])
    model.save_pretrained(tmp_path / "model")
    has_classes = model.config.num_class_embeds is not None
    label = ("--class-label", "2") if has_classes else ()
    assert convert(tmp_path / "model", tmp_path / "run", *label) == 0
    condition = {"class_labels": 2} if has_classes else {}
    assert_same(*outputs(model, tmp_path / "run", **condition))


def test_a_unet_of_pixels_scores_images(tmp_path):
    theirs = unet(in_channels=3, out_channels=3)
    theirs.save_pretrained(tmp_path / "in")
    pixels = ("--latent-size", "16", "--set", "encoder.name=pixels", "data.image_size=16")
    assert convert(tmp_path / "in", tmp_path / "run", *pixels) == 0
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    run = Workdir(tmp_path / "run")
    scores = load_model(run, override(run.read_config(), ["inversion.num_steps=1"])).predict(image)
    x0 = torch.tensor(image.transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32)
    with torch.no_grad():  # one step from t = 0 to noise ends at what the network says there
        x_T = theirs(x0, torch.zeros(2, dtype=torch.long)).sample.numpy()
    norm = np.linalg.norm(x_T, axis=1)
    np.testing.assert_allclose(scores.latent_norm, norm, rtol=0, atol=1e-4 * norm.max())  # float32


def test_older_names_of_attention_are_the_newer_ones(saved, tmp_path):
    folder = copied(saved, tmp_path / "model")
    path = folder / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = read_tensors(path)
    for new, old in names.items():
        tensors = {k.replace(f".{new}.", f".{old}."): v for k, v in tensors.items()}
    assert any(".proj_attn." in k for k in tensors)
    write_tensors(path, tensors)
    newer, older = (read_folder(path, None, None).params for path in (saved, folder))
    jax.tree.map(np.testing.assert_array_equal, newer, older)


def transformer(**changes):
    """Random everywhere: the library's fresh modulations already are, its biases are small."""
    torch.manual_seed(0)
    options = {
        "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 4,
        "in_channels": 3, "out_channels": 6, "num_embeds_ada_norm": 5,
    }  # fmt: skip
    return DiTTransformer2DModel(**(options | changes)).eval()


@pytest.fixture(scope="module")
def saved_transformer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusers_dit")
    transformer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("label", [None, 4])
def test_transformer_gives_the_same_output(saved_transformer, tmp_path, label):
    """Block by block other timestep embeddings, a learned variance, and a class or none."""
    chosen = () if label is None else ("--class-label", str(label))
    assert convert(saved_transformer, tmp_path / "run", *chosen) == 0
    row = 5 if label is None else label  # the row behind the classes is "no class"
    assert_same(*outputs(transformer(), tmp_path / "run", class_labels=row))


def test_transformer_without_variance_and_biases_under_its_older_name(tmp_path):
    model = transformer(out_channels=None, attention_bias=False, patch_size=1, norm_eps=1e-3)
    model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"_class_name": "Transformer2DModel"})
    )
    assert convert(tmp_path / "model", tmp_path / "run") == 0
    assert_same(*outputs(model, tmp_path / "run", class_labels=5))


def test_transformer_inverts_as_the_library_does(saved_transformer, tmp_path):
    """Their step to level t, given the network at the level below, is our Euler step."""
    folder = copied(saved_transformer, tmp_path / "model")
    scheduler = DDIMInverseScheduler(num_train_timesteps=1001, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    assert convert(folder, tmp_path / "run") == 0
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 4, 4), np.float32))
    model, no_class = transformer(), torch.tensor([5, 5])
    ours = invad_jax.load(tmp_path / "run")
    assert rising_plan(ours.config).timesteps.tolist() == [0, 500, 1000]
    x_T = ours.score_latents(x.numpy().transpose(0, 2, 3, 1)).x_T
    scheduler.set_timesteps(2)  # 500 apart
    with torch.no_grad():
        for t in (500, 1000):
            output = model(x, torch.tensor([t - 500] * 2), class_labels=no_class).sample
            x = scheduler.step(output[:, :3], t, x).prev_sample
        # The last step leads to no signal at all: x_T is the last predicted noise.
        expected = model(x, torch.tensor([1000] * 2), class_labels=no_class).sample[:, :3].numpy()
    # Three networks after each other, and float32 rounding of levels down to 4e-5.
    assert np.abs(x_T.transpose(0, 3, 1, 2) - expected).max() < 1e-3 * np.abs(expected).max()


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


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("family", [*FAMILIES, "sigmoid"])
def test_schedules(family, zero_snr):
    theirs = DDPMScheduler(
        beta_schedule=family, beta_start=1e-4, beta_end=0.02, rescale_betas_zero_snr=zero_snr
    ).alphas_cumprod
    ours = alpha_bar_schedule(FAMILIES.get(family, family), 1000, (1e-4, 0.02))
    if zero_snr:
        ours = with_zero_terminal_snr(ours)
    # Theirs is a float32 product of 1000 factors, each rounded; the last cosine one is 1e-3. The
    # rescaling subtracts almost equal roots near the end.
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-4, atol=1e-7 if zero_snr else 0)


def test_trained_betas_are_kept_in_the_config(saved, tmp_path):
    betas = np.random.default_rng(0).uniform(1e-4, 0.05, 40)
    folder = copied(saved, tmp_path / "model")
    scheduler = DDPMScheduler(
        num_train_timesteps=40, trained_betas=betas, rescale_betas_zero_snr=True
    )
    scheduler.save_pretrained(folder)
    assert convert(folder, tmp_path / "run") == 0
    config = Workdir(tmp_path / "run").read_config()
    assert len(config.diffusion.betas) == 40
    # The same in float32, product and roots of 40 factors.
    np.testing.assert_allclose(
        alpha_bar_of(config), scheduler.alphas_cumprod.numpy(), rtol=1e-5, atol=1e-7
    )


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
    alpha_bar = alpha_bar_schedule(FAMILIES[family], 1000, (1e-4, 0.02))
    plan = make_plan(alpha_bar, np.array(levels[:-1]), final_alpha_bar=alpha_bar[800])
    table = jnp.asarray(alpha_bar, jnp.float32)

    def eps_fn(x, t):
        output = network(x, t[:, None, None, None])
        return to_eps(PREDICTIONS[prediction], x, output, t, table)

    begun = [Plan(*(array[:count] for array in plan)) for count in range(1, len(levels))]
    states = np.stack([x0, *(invert(eps_fn, jnp.asarray(x0), steps) for steps in begun)])
    expected = np.stack([state.numpy() for state in expected])
    # At t = 0 the cosine's 1 - alpha_bar is 4e-5, of which a float32 rounding of alpha_bar is
    # 1.5e-3: half of that in the root by which a predicted sample is divided.
    assert np.abs(states - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("freq_shift", 0.5), ("flip_sin_to_cos", "no"), ("norm_eps", 0), ("norm_num_groups", 48),
        ("downsample_padding", 2), ("class_embed_type", "timestep"), ("act_fn", "gelu"),
        ("time_embedding_type", "fourier"), ("time_embedding_dim", 7),
        ("resnet_time_scale_shift", "spatial"), ("resnet_time_scale_shift", "scale_shift"),
        ("attn_norm_num_groups", 16), ("_class_name", "UNet1DModel"), ("out_channels", 6),
        ("downsample_type", "resnet"), ("mid_block_type", None), ("num_class_embeds", 3),
        ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"]), ("down_block_types", []),
        ("up_block_types", ["UpBlock2D", "UpBlock2D"]), ("block_out_channels", [64, 96]),
        ("attention_head_dim", 48), ("sample_size", None), ("sample_size", 7),
    ],
)  # fmt: skip
def test_another_unet_is_refused_by_name(saved, tmp_path, capsys, option, value):
    folder = copied(saved, tmp_path / "model")
    change_config(folder, option, value)
    refused(folder, tmp_path, capsys, NAMED_OTHERWISE.get(f"{option}={value}", option))


NAMED_OTHERWISE = {
    "resnet_time_scale_shift=scale_shift": "attn_norm_num_groups",  # then none in the middle
    "norm_num_groups=48": "48 groups",
    "downsample_type=resnet": "upsample_type",
    "attention_head_dim=48": "head_channels=48",
    "sample_size=7": "divisible by 2",
}


def change_config(folder, option, value):
    config = json.loads((folder / "config.json").read_text()) | {option: value}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("activation_fn", "geglu"), ("norm_type", "layer_norm"), ("cross_attention_dim", 8),
        ("attention_bias", None), ("num_attention_heads", 0), ("norm_eps", "small"),
        ("out_channels", 4), ("num_embeds_ada_norm", None), ("sample_size", 5),
    ],
)  # fmt: skip
def test_another_transformer_is_refused_by_name(saved_transformer, tmp_path, capsys, option, value):
    folder = copied(saved_transformer, tmp_path / "model")
    change_config(folder, option, value)
    refused(folder, tmp_path, capsys, "patch_size=2" if option == "sample_size" else option)


@pytest.mark.parametrize(("kind", "label"), [("saved", 0), ("saved_transformer", 5)])
def test_a_class_that_is_none_is_refused(request, tmp_path, capsys, kind, label):
    folder = copied(request.getfixturevalue(kind), tmp_path / "model")
    refused(folder, tmp_path, capsys, f"--class-label {label}", "--class-label", str(label))


def test_a_transformer_keeps_its_grid(saved_transformer, tmp_path, capsys):
    """The library would scale its positions."""
    folder = copied(saved_transformer, tmp_path / "model")
    message = "--latent-size 16: this DiT's positions are for 4"
    refused(folder, tmp_path, capsys, message, "--latent-size", "16")
    assert convert(folder, tmp_path / "run") == 0
    model = invad_jax.load(tmp_path / "run")
    with pytest.raises(UserError, match="this model's grid is fixed"):
        model.denoise(np.zeros((1, 16, 16, 3), np.float32), 5)


def test_a_whole_pipeline_is_refused_with_what_to_give(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    refused(tmp_path / "model", tmp_path, capsys, "give the folder of its unet")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("trained_betas", [0.1]), ("trained_betas", "all"), ("beta_schedule", "laplace"),
        ("prediction_type", "flow"), ("timestep_type", "continuous"), ("beta_start", -1e-4),
        ("beta_end", "much"), ("num_train_timesteps", 0), ("_class_name", "FlowMatchScheduler"),
    ],
)  # fmt: skip
def test_another_process_is_refused_by_name(saved, tmp_path, capsys, option, value):
    folder = copied(saved, tmp_path / "model")
    (folder / "scheduler_config.json").write_text(json.dumps({option: value}))
    named = {"trained_betas": "betas", "_class_name": "_class_name='FlowMatchScheduler'"}
    refused(folder, tmp_path, capsys, named.get(option, option))


KEYS = {
    "saved": "mid_block.attentions.0.to_q.weight",
    "saved_transformer": "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight",
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize(
    "what",
    ["missing", "unexpected", "misshapen", "flat", "empty", "truncated", "header", "malicious",
     "none"],
)  # fmt: skip
def test_wrong_tensors_are_refused(request, tmp_path, capsys, kind, what):
    folder = copied(request.getfixturevalue(kind), tmp_path / "model")
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors, key = read_tensors(path), KEYS[kind]
    message = key.removesuffix(".weight")
    if what == "missing":
        del tensors[key]
    elif what == "unexpected":
        message = "down_blocks.0.extra"
        tensors[message] = np.zeros(1, np.float32)
    elif what in ("misshapen", "flat", "empty"):
        tensor = tensors[key]
        tensors[key] = {"misshapen": tensor[:-1], "flat": tensor.ravel(), "empty": tensor[:0]}[what]
    write_tensors(path, tensors)
    if what == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
        message = "does not lie at"
    elif what == "header":
        path.write_bytes(b"\xff" * 100)
        message = "damaged"
    elif what == "malicious":
        path.unlink()
        message = "refused: the file would run"
        (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(print))
    elif what == "none":
        path.unlink()
        message = "holds no diffusion_pytorch_model.safetensors or"
    refused(folder, tmp_path, capsys, message)


def refused(folder, tmp_path, capsys, message, *options):
    assert convert(folder, tmp_path / "run", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
