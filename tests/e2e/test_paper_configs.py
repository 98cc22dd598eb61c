"""The published experiments: their sizes as they are, and one of each layout started in small."""

import csv
import dataclasses
import json
import math
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from invad_jax import encoders
from invad_jax.config.io import load, to_dict
from invad_jax.data.layouts import load_dataset
from invad_jax.encoders import describe_encoder
from invad_jax.evaluation import ground_truth
from invad_jax.inference.assembly import abstract_params
from invad_jax.paradigms.levels import rising_plan

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
IMAGES = {  # normal images to train on, and devices that took 8 each
    "mvtec_dit": (3629, 8), "visa_dit": (8659, 8), "mpdd_dit": (888, 8), "bmad_brain": (7500, 1),
    "bmad_liver": (1542, 1), "bmad_resc": (4297, 1), "bmad_oct2017": (26315, 1),
    "bmad_chest": (8000, 1), "bmad_histopathology": (5088, 1),
}  # fmt: skip
SMALL = (
    "data.image_size=32", "encoder.weights=random", "denoiser.width=16", "denoiser.depth=1",
    "denoiser.num_heads=2", "train.batch_size=8", "train.num_steps=2", "train.warmup_steps=1",
    "eval.batch_size=8",
)  # fmt: skip


def dit_parameters(width, depth, channels, tokens):
    """Counted by hand: a layer of n inputs and m outputs has (n + 1) m parameters."""
    attention = (width + 1) * 3 * width + (width + 1) * width
    feed_forward = (width + 1) * 4 * width + (4 * width + 1) * width
    block = attention + feed_forward + (width + 1) * 6 * width  # and its modulation
    time = (256 + 1) * width + (width + 1) * width
    ends = (channels + 1) * width + (width + 1) * 2 * width + (width + 1) * channels
    return depth * block + time + ends + tokens * width  # the positions


@pytest.mark.parametrize("name", IMAGES)
def test_full_sizes(name):
    config = load(CONFIGS / f"{name}.py")
    params = abstract_params(config, (16, 16, 272))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert count == dit_parameters(width=2048, depth=16, channels=272, tokens=256)
    assert round(count / 1e9, 2) == 1.22  # as published
    images, devices = IMAGES[name]
    assert config.train.batch_size == 8 * devices
    epochs = config.train.num_steps * config.train.batch_size / images
    warmup = config.train.warmup_steps * config.train.batch_size / images
    # a part of a step is cut off, which is less than a batch's share of an epoch
    share = config.train.batch_size / images
    assert 300 - share < epochs <= 300
    assert 40 - share < warmup <= 40


def differing(name, other):
    """The options in which two configs differ."""
    ours, theirs = (to_dict(load(CONFIGS / f"{one}.py")) for one in (name, other))
    return {
        f"{section}.{option}"
        for section, options in ours.items()
        for option, value in options.items()
        if theirs[section][option] != value
    }


@pytest.mark.parametrize("name", IMAGES)
def test_they_differ_in_their_images_and_how_long_they_train_alone(name):
    """What is trained and evaluated below is one of them."""
    of_images = {"data.name", "data.root"}
    of_training = {"train.num_steps", "train.warmup_steps", "train.batch_size"}
    assert differing("mvtec_dit", name) <= of_images | of_training


@pytest.mark.parametrize("name", IMAGES)
def test_the_white_twin_differs_in_what_makes_it_white_alone(name):
    assert differing(name, f"{name}_white") == {
        "data.holdout_fraction", "diffusion.prediction", "train.latent_stats", "inversion.solver",
        "inversion.use_ema",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["mvtec_dinov2", "visa_dinov2", "mpdd_dinov2"])
def test_wide_features(name):
    config = load(CONFIGS / f"{name}.py")
    _, encoder = describe_encoder(config.encoder, config.data.image_size)
    assert encoder.latent_shape == (28, 28, 256)
    assert encoder.variables.components.basis.shape == (2 * 768, 256)
    params = abstract_params(config, encoder.latent_shape)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    patch = 4 * 256  # numbers a token
    assert count == dit_parameters(width=768, depth=12, channels=patch, tokens=14 * 14)


def test_the_published_path_through_the_options():
    """The timesteps, and the latent that the published DiT was made for."""
    config = load(CONFIGS / "mvtec_dit.py")
    backbone = encoders.ENCODERS[config.encoder.name](config.encoder, config.data.image_size)
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), np.float32)
    stages = jax.eval_shape(backbone.features, backbone.abstract, image)
    assert [s.shape[-1] for s in stages] == [24, 32, 56, 160]
    assert stages[-1].shape[1:3] == (16, 16)
    plan = rising_plan(config)
    assert np.asarray(plan.timesteps).tolist() == [0, 500, 999]
    assert float(plan.alpha_bar_next[-1]) == 0


def draw(path, seed, mask=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    if mask:
        pixels = np.zeros((40, 48), np.uint8)
        pixels[10:25, 12:30] = 1  # faint, as VisA's are
    else:
        pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def draw_mvtec(root):
    for category in ("bottle", "screw"):
        for i in range(4):
            draw(root / category / "train" / "good" / f"{i:03d}.png", i)
        for i in range(2):
            draw(root / category / "test" / "good" / f"{i:03d}.png", 10 + i)
            draw(root / category / "test" / "broken" / f"{i:03d}.png", 20 + i)
            draw(root / category / "ground_truth" / "broken" / f"{i:03d}_mask.png", 0, mask=True)


def draw_visa(root):
    rows = []
    for category in ("candle", "pcb1"):
        data = Path(category) / "Data"
        for i in range(6):
            path = data / "Images" / "Normal" / f"{i:04d}.JPG"
            rows.append((category, "train" if i < 4 else "test", "normal", path, ""))
        for i in range(2):
            path = data / "Images" / "Anomaly" / f"{i:03d}.JPG"
            mask = data / "Masks" / "Anomaly" / f"{i:03d}.png"
            rows.append((category, "test", "anomaly", path, mask))
            draw(root / mask, 0, mask=True)
    for seed, row in enumerate(rows):
        draw(root / row[3], seed)
    (root / "split_csv").mkdir()
    with (root / "split_csv" / "1cls.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("object", "split", "label", "image", "mask"), *rows])


def draw_bmad(root):
    for i in range(4):
        draw(root / "train" / "good" / "img" / f"{i}.png", i)
    for i in range(2):
        draw(root / "test" / "good" / "img" / f"{i}.png", 10 + i)
        draw(root / "test" / "Ungood" / "img" / f"{i}.png", 20 + i)
        draw(root / "test" / "Ungood" / "label" / f"{i}.png", 0, mask=True)
        draw(root / "valid" / "Ungood" / "img" / f"{i}.png", 30 + i)


@pytest.mark.parametrize(
    ("name", "draw_data", "categories"),
    [
        ("mvtec_dit", draw_mvtec, {"bottle", "screw"}),
        ("visa_dit", draw_visa, {"candle", "pcb1"}),
        ("bmad_brain", draw_bmad, {"Brain"}),
    ],
)
def test_its_layout_is_read(tmp_path, name, draw_data, categories):
    root = tmp_path / "Brain"
    draw_data(root)
    data = dataclasses.replace(load(CONFIGS / f"{name}.py").data, root=str(root))
    found = load_dataset(data)
    assert Counter(sample.category for sample in found.train) == dict.fromkeys(categories, 4)
    assert {sample.category for sample in found.test} == categories
    for category in categories:
        test = [sample for sample in found.test if sample.category == category]
        truth = ground_truth.read(test, data)
        labels = [sample.gt_label for sample in truth.samples]
        assert sorted(labels) == [0, 0, 1, 1]
        assert truth.has_mask.all()
        assert truth.gt_mask.any(axis=(1, 2)).tolist() == [label == 1 for label in labels]


def test_trains_and_evaluates_in_small(commands, tmp_path):
    draw_mvtec(tmp_path)
    config = str(CONFIGS / "mvtec_dit.py")
    commands.here("train", "--config", config, "--set", f"data.root={tmp_path}", *SMALL)
    commands.here("eval", "--workdir", "runs/mvtec_dit", "--no-speed")
    evaluated = commands.folder / "runs" / "mvtec_dit" / "eval"
    payload = json.loads((evaluated / "metrics.json").read_text())
    assert payload["step"] == 2
    for fusion in payload["fusion"].values():
        assert set(fusion["categories"]) == {"bottle", "screw"}
        for row in fusion["categories"].values():
            assert (row["n_normal"], row["n_anomalous"]) == (2, 2)
            assert 0 <= row["aupro"] <= 1  # masks were found
            assert 0 <= row["mad"] <= 1
