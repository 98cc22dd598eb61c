"""Networks of pixels on images: trained here, and converted (of diffusers: tests/parity)."""

import json

import jax
import pytest

from invad_jax.config import Config, DenoiserConfig
from invad_jax.converters.published import params_to_published
from invad_jax.inference.assembly import abstract_params
from invad_jax.io.tensors import write_tensors
from tests.commands import training
from tests.parameters import random_like
from tests.unit.converters.test_rivals import tensors_of

SIDE = 16
PIXELS = (f"data.image_size={SIDE}", "encoder.name=pixels", "eval.batch_size=8")
UNET = DenoiserConfig(
    name="unet", width=32, num_res_blocks=1, channel_mult=(1,), attention_downsamplings=(),
    head_channels=16,
)  # fmt: skip
TINY_UNET = (
    *PIXELS, "denoiser.name=unet", "denoiser.width=32", "denoiser.num_res_blocks=1",
    "denoiser.channel_mult=1", "denoiser.head_channels=16", "train.batch_size=8",
    "train.num_steps=4", "train.warmup_steps=2", "encoder.weights=auto",
)  # fmt: skip


def evaluated(commands, run, *options):
    """What `eval` says of a workdir, which keeps nothing of an encoder."""
    commands.here("eval", "--workdir", run, "--no-speed", *options)
    assert not (commands.folder / run / "encoder").exists()
    found = json.loads((commands.folder / run / "eval" / "metrics.json").read_text())
    assert 0 <= found["fusion"]["calibrated"]["mean"]["i_auroc"] <= 1
    assert found["fusion"]["calibrated"]["mean"]["p_auroc"] is not None
    return found


def test_trained_evaluated_and_exported(commands):
    commands.here(*training("pixels", tiny=TINY_UNET))
    assert evaluated(commands, "pixels")["nfe"] == 3
    commands.here("export", "--workdir", "pixels", "--out", "pixels.invad")
    image = str(commands.drawn_test_images()[0])
    commands.here("predict", "--model", "pixels.invad", "--input", image, "--out", "by_bundle")
    assert (commands.folder / "by_bundle" / "predictions.csv").exists()


def guided_diffusion(folder):
    params = random_like(abstract_params(Config(denoiser=UNET), (SIDE, SIDE, 3)), 0.1)
    tensors = params_to_published(params, UNET, {})
    write_tensors(
        folder / "theirs.pt", {key.removeprefix("net."): value for key, value in tensors.items()}
    )
    return [str(folder / "theirs.pt"), "--latent-size", str(SIDE), "--head-channels", "16"]


def transfusion(folder):
    tensors = jax.tree.map(lambda leaf: 0.1 * leaf, tensors_of("transfusion")[1])
    write_tensors(folder / "theirs.pkl", tensors)
    return [str(folder / "theirs.pkl"), "--latent-size", str(SIDE)]


@pytest.mark.parametrize("source", [guided_diffusion, transfusion])
def test_a_converted_network_of_pixels_scores_images(source, commands, tmp_path):
    run, name = f"theirs_{source.__name__}", source.__name__.replace("_", "-")
    commands.here(
        "convert", "--from", name, "--workdir", run, "--input", *source(tmp_path),
        "--set", *PIXELS,
    )  # fmt: skip
    found = evaluated(commands, run, "--set", "data.name=procedural")
    assert found["nfe"] == (18 if source is transfusion else 3)
