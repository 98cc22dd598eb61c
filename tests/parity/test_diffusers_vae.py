"""`AutoencoderKL` folders of diffusers become encoders: the same scaled latents, by the command."""

import json

import numpy as np
import pytest

from invad_jax.config import EncoderConfig
from invad_jax.convert import cli
from invad_jax.encoders import build_encoder
from invad_jax.io.tensors import read_tensors, write_tensors

torch = pytest.importorskip("torch", reason="the oracle needs torch")
pytest.importorskip("diffusers", reason="diffusers is the oracle")
try:
    from diffusers import AutoencoderKL
except (ImportError, RuntimeError) as error:
    pytest.skip(f"diffusers cannot be imported: {error}", allow_module_level=True)

FILE = "diffusion_pytorch_model.safetensors"
KINDS = {
    "stable_diffusion": {"scaling_factor": 0.5},
    # Newer ones have no convolutions around the latent, and move its mean.
    "shifted": {
        "scaling_factor": 1.5, "shift_factor": 0.25, "use_quant_conv": False,
        "use_post_quant_conv": False, "latent_channels": 6,
    },
    "shifted_convolutions": {"shift_factor": -0.75},
}  # fmt: skip


def vae(**changes):
    torch.manual_seed(0)
    options = {
        "down_block_types": ("DownEncoderBlock2D",) * 2, "block_out_channels": (32, 64),
        "up_block_types": ("UpDecoderBlock2D",) * 2, "layers_per_block": 1,
    }  # fmt: skip
    return AutoencoderKL(**(options | changes)).eval()


def convert(folder, workdir, *options):
    return cli(["--from", "diffusers", "--input", str(folder), "--workdir", str(workdir), *options])


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_gives_the_latents_of_the_library(tmp_path, kind):
    oracle = vae(**KINDS[kind])
    oracle.save_pretrained(tmp_path / "vae")
    assert convert(tmp_path / "vae", tmp_path / "run") == 0
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    with torch.no_grad():
        signed = torch.from_numpy(image.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
        mean = oracle.encode(signed).latent_dist.mean
    shift = oracle.config.shift_factor or 0
    expected = ((mean - shift) * oracle.config.scaling_factor).numpy()
    encoder = build_encoder(EncoderConfig(name="vae", weights=str(tmp_path / "run")), 16)
    latent = np.asarray(encoder.apply(encoder.variables, image)).transpose(0, 3, 1, 2)
    # float32 sums in another order, some 15 layers
    np.testing.assert_allclose(latent, expected, atol=1e-5 * np.abs(expected).max())
    summary = json.loads((tmp_path / "run" / "vae.json").read_text())
    assert summary["scale"] == oracle.config.scaling_factor
    assert summary["vae"]["latent_channels"] == oracle.config.latent_channels


def test_the_decoder_undoes_the_shift(tmp_path):
    """Nothing here decodes a converted VAE, so by the convolutions alone."""
    oracle = vae(shift_factor=-0.75)
    oracle.save_pretrained(tmp_path / "vae")
    assert convert(tmp_path / "vae", tmp_path / "run") == 0
    state = read_tensors(tmp_path / "run" / "vae.safetensors")
    latent = np.random.default_rng(0).standard_normal(4)
    kernel = state["post_quant_conv.weight"][:, :, 0, 0].astype(np.float64)
    with torch.no_grad():
        theirs = oracle.post_quant_conv(torch.tensor(latent - 0.75).float()[None, :, None, None])
    ours = kernel @ latent + state["post_quant_conv.bias"]
    np.testing.assert_allclose(ours, theirs.numpy().ravel(), atol=1e-6)  # sums of four float32


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    vae().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("norm_num_groups", 16, "norm_num_groups"), ("act_fn", "relu", "act_fn"),
        ("latents_mean", [0.1], "latents_mean"), ("in_channels", 1, "in_channels"),
        ("mid_block_add_attention", False, "mid_block_add_attention"),
        ("scaling_factor", 0, "scaling_factor"), ("shift_factor", "far", "shift_factor"),
        ("block_out_channels", [32, 128], "its tensors make [32, 64]"),
        ("layers_per_block", 2, "its tensors make 1"), ("latent_channels", 8, "tensors make 4"),
        ("use_quant_conv", False, "quant_conv.weight is unexpected"),
        ("_class_name", "AutoencoderTiny", "AutoencoderKL"),
    ],
)  # fmt: skip
def test_another_vae_is_refused_by_name(saved, tmp_path, capsys, option, value, message):
    config = json.loads((saved / "config.json").read_text()) | {option: value}
    refused(tmp_path, capsys, config, read_tensors(saved / FILE), message)


@pytest.mark.parametrize("what", ["missing", "unexpected", "misshapen"])
def test_wrong_tensors_are_refused(saved, tmp_path, capsys, what):
    tensors, key = read_tensors(saved / FILE), "encoder.mid_block.attentions.0.to_q.weight"
    message = "encoder.mid.attn_1.q.weight"
    if what == "missing":
        del tensors[key]
    elif what == "unexpected":
        message = "encoder.extra.weight"
        tensors[message] = np.zeros(1, np.float32)
    else:
        tensors[key] = tensors[key][:-1]
    refused(tmp_path, capsys, json.loads((saved / "config.json").read_text()), tensors, message)


def test_options_of_a_denoiser_are_refused(saved, tmp_path, capsys):
    for option in (["--latent-size", "8"], ["--class-label", "1"], ["--set", "data.root=x"]):
        assert convert(saved, tmp_path / "run", *option) == 2
        assert option[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def refused(tmp_path, capsys, config, tensors, message):
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder / FILE, tensors)
    assert convert(folder, tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]
