"""Both stages of latent diffusion by command: killed, resumed, stacked, evaluated."""

import json
import signal
import time

import numpy as np
import pytest
from PIL import Image

from tests.commands import newest_step, training

SIZE = 16
VAE = (
    f"data.image_size={SIZE}", "vae.width=12", "vae.multipliers=1,2",
    "vae.num_res_blocks=1", "vae.latent_channels=2", "vae_loss.perceptual_weight=0.1",
    "encoder.stages=0", "train.num_steps=150", "train.checkpoint_every=15",
    "train.learning_rate=3e-3", "train.ema_decay=0.9",
)  # fmt: skip


def arguments(workdir):
    return ["train_vae", *training(workdir, *VAE)[1:]]


@pytest.fixture(scope="module")
def first_stage(commands):
    """The workdir of an unbroken run, and what it printed."""
    done = commands.run(*arguments("vae"))
    return commands.folder / "vae", done


def test_a_first_stage_reports_what_it_wrote(first_stage):
    workdir, done = first_stage
    summary = json.loads((workdir / "vae.json").read_text())
    assert summary["step"] == 150
    assert summary["held_out"] is True
    assert summary["latent_shape"] == [8, 8, 2]
    assert summary["scale"] * summary["latent_std"] == pytest.approx(1)
    assert f"PSNR {summary['psnr']:.2f} dB" in done.stdout
    assert 0 < summary["ssim"] < 1
    assert summary["kl"] > 0
    with Image.open(workdir / "examples.png") as examples:
        assert examples.size == (2 * SIZE, 6 * SIZE)  # each beside its own
        picture = np.asarray(examples, np.float64) / 255
    error = np.square(picture[:, :SIZE] - picture[:, SIZE:]).mean()
    flat = picture[:, :SIZE].reshape(6, -1, 3).var(axis=1).mean()
    assert error < flat  # better than the best single colour for each image
    (log,) = (workdir / "logs").glob("events*")
    assert b"reconstructions" in log.read_bytes()


def test_a_killed_first_stage_ends_as_the_unbroken_one(commands, first_stage):
    workdir, process = commands.folder / "vae_killed", commands.start(*arguments("vae_killed"))
    while newest_step(workdir) < 30 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (workdir / "vae.safetensors").exists()
    commands.run(*arguments("vae_killed"))
    for name in ("vae.safetensors", "vae.json", "examples.png"):
        assert (workdir / name).read_bytes() == (first_stage[0] / name).read_bytes(), name


def test_a_denoiser_is_trained_and_evaluated_in_its_latent(commands, first_stage):
    latent = (f"data.image_size={SIZE}", "encoder.name=vae", "encoder.weights=vae",
              "encoder.stages=", "encoder.pool=1")  # fmt: skip
    commands.here(*training("latent_run", *latent))
    commands.here("eval", "--workdir", "latent_run", "--no-speed")
    metrics = json.loads((commands.folder / "latent_run" / "eval" / "metrics.json").read_text())
    assert 0 <= metrics["fusion"]["calibrated"]["mean"]["mad"] <= 1
    assert "was trained with another config" in commands.refused(*training("vae", *latent))
