"""Whatever a foreign file says, the answer is a model or one line."""

import json
import math

import jax
import numpy as np
import pytest

from invad_jax.convert import cli
from invad_jax.converters import Converted, check_latents, diffusers_folder
from invad_jax.converters.invad_pytorch import read_folder
from invad_jax.errors import UserError
from invad_jax.inference.load import load_model
from invad_jax.io.tensors import read_tensors, write_tensors
from invad_jax.runtime.workdir import Workdir
from tests.unit.converters.test_convert import folder_of

ODD = [None, True, 0, -1, 3, 10**9, 10**30, 0.5, math.nan, math.inf, "x", "", [], [1], ["a", {}],
       {"a": [1]}, [[[]]]]  # fmt: skip
MODELS = {
    "UNet2DModel": {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": [32, 64],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "layers_per_block": 1,
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 8,
        "attention_head_dim": 8, "norm_eps": 1e-5, "freq_shift": 0, "flip_sin_to_cos": True,
        "downsample_padding": 1, "num_class_embeds": None, "time_embedding_dim": None,
        "add_attention": True, "resnet_time_scale_shift": "default", "attn_norm_num_groups": None,
    },
    "DiTTransformer2DModel": {
        "sample_size": 8, "in_channels": 4, "out_channels": 8, "num_attention_heads": 2,
        "attention_head_dim": 8, "num_layers": 1, "patch_size": 2, "norm_eps": 1e-5,
        "num_embeds_ada_norm": 10, "attention_bias": True,
    },
    "AutoencoderKL": {
        "scaling_factor": 0.2, "latent_channels": 4, "shift_factor": None, "use_quant_conv": True,
        "block_out_channels": [32], "layers_per_block": 1,
    },
}  # fmt: skip
SCHEDULER = {
    "_class_name": "DDPMScheduler", "num_train_timesteps": 100, "beta_schedule": "linear",
    "beta_start": 1e-4, "beta_end": 0.02, "prediction_type": "epsilon", "trained_betas": None,
    "rescale_betas_zero_snr": False, "timestep_type": "discrete",
}  # fmt: skip


def ends_well(read):
    """A result, or a `UserError` of one printable line that is not endless."""
    try:
        return read()
    except UserError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 1500
    return None


def diffusers(tmp_path, model, name="config.json"):
    (tmp_path / name).write_text(json.dumps(model))
    return lambda: diffusers_folder.read_folder(tmp_path, None, None)


@pytest.mark.parametrize("kind", MODELS)
def test_any_option_of_a_diffusers_model_may_be_anything(tmp_path, kind):
    write_tensors(tmp_path / "diffusion_pytorch_model.safetensors", {"x": np.zeros(3)})
    for option in ("_class_name", *MODELS[kind]):
        for value in ODD:
            model = {"_class_name": kind, **MODELS[kind], option: value}
            assert ends_well(diffusers(tmp_path, model)) is None  # its tensor is of no model


def test_any_option_of_a_scheduler_may_be_anything(tmp_path):
    write_tensors(tmp_path / "diffusion_pytorch_model.safetensors", {"x": np.zeros(3)})
    diffusers(tmp_path, {"_class_name": "UNet2DModel", **MODELS["UNet2DModel"]})
    for option in SCHEDULER:
        for value in ODD:
            scheduler = SCHEDULER | {option: value}
            assert ends_well(diffusers(tmp_path, scheduler, "scheduler_config.json")) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", '{"a": 1', "\0", '{"a": 1e999}', ""])
def test_a_config_that_is_none(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert ends_well(lambda: diffusers_folder.read_folder(tmp_path, None, None)) is None


SETTINGS = {
    "data": {"dataset_name": "mvtec", "data_root": "x", "category": "all", "img_size": 64},
    "backbone": {"model_type": "efficientnet-b0", "outblocks": [1, 2], "stride": 8},
    "diffusion": {"model_type": "mlp", "width": 16, "depth": 1, "num_heads": 4},
    "evaluation": {"eval_step": 3},
}


def test_any_published_setting_may_be_anything(tmp_path):
    """JSON is YAML; each setting has an odd value, in turn."""
    folder_of(tmp_path, "mlp")
    names = [(section, option) for section in SETTINGS for option in SETTINGS[section]]
    for i, (section, option) in enumerate(names):
        settings = json.loads(json.dumps(SETTINGS))
        settings[section][option] = [v for v in ODD if v == v][i % (len(ODD) - 1)]
        (tmp_path / "config.yaml").write_text(json.dumps(settings))
        ends_well(lambda: read_folder(tmp_path, None, {}, None))
    for section in SETTINGS:
        (tmp_path / "config.yaml").write_text(json.dumps(SETTINGS | {section: ["x"]}))
        assert ends_well(lambda: read_folder(tmp_path, None, {}, None)) is None
    (tmp_path / "config.yaml").write_text(json.dumps(SETTINGS))
    assert isinstance(ends_well(lambda: read_folder(tmp_path, None, {}, None)), Converted)


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("dit", ["--num-heads", "0"], "denoiser.num_heads=0: must be at least 1"),
        ("dit", ["--num-heads", "-4"], "denoiser.num_heads=-4"),
        ("dit", ["--num-heads", "3"], "must divide denoiser.width=16"),
        ("dit", ["--num-heads", "9" * 30], "denoiser.num_heads"),
        ("dit", ["--latent-size", "0"], "--latent-size 0"),
        ("mlp", ["--latent-size", "-1"], "--latent-size -1"),
        ("mlp", ["--latent-size", "9" * 20], "--latent-size"),
        ("unet", ["--head-channels", "-1"], "denoiser.head_channels=-1"),
        ("unet", ["--head-channels", "16", "--latent-size", "0"], "--latent-size 0"),
    ],
)
def test_what_no_tensor_tells_is_checked(tmp_path, capsys, kind, options, named):
    folder, workdir = str(folder_of(tmp_path, kind)), tmp_path / "run"
    argv = ["--from", "invad-pytorch", "--input", folder, "--workdir", str(workdir)]
    assert cli([*argv, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert not workdir.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, value):
    path = folder_of(tmp_path, "mlp") / "model_latest.pth"
    tensors = {name: np.array(tensor) for name, tensor in read_tensors(path).items()}
    tensors["net.input_proj.bias"][3] = value
    write_tensors(path, tensors)
    with pytest.raises(UserError, match=r"latest\.pth: .* net\.input_proj\.bias holds NaN"):
        read_folder(tmp_path, None, {}, None)
    tensors["net.input_proj.bias"] = np.zeros(16, np.complex64)
    write_tensors(path, tensors)
    with pytest.raises(UserError, match=r"net\.input_proj\.bias is complex64"):
        read_folder(tmp_path, None, {}, None)


def test_positions_that_no_file_holds_are_bounded():
    cfg = diffusers_folder.diffusers_dit.DenoiserConfig(name="dit_diffusers", width=1152)
    check_latents("x", cfg, (128, 128, 4))
    with pytest.raises(UserError, match="too large"):
        check_latents("x", cfg, (4096, 4096, 4))


def test_scoring_lays_out_its_own_devices(tmp_path):
    """Of the 8 here, 3 are no part: a training on them could not go on, scoring can."""
    folder, workdir = str(folder_of(tmp_path / "theirs", "mlp")), tmp_path / "run"
    argv = ["--from", "invad-pytorch", "--input", folder, "--workdir", str(workdir)]
    assert cli([*argv, "--latent-size", "4", "--set", "mesh.fsdp=3"]) == 0
    model = load_model(Workdir(workdir), Workdir(workdir).read_config())
    assert model.mesh.size == jax.device_count() == 8
