"""Wide-ResNet-50-2 against timm's, on random weights."""

from types import ModuleType

import jax
import numpy as np
import pytest

from invad_jax.config import EncoderConfig
from invad_jax.encoders import build_encoder
from invad_jax.encoders.resnet import ResNet, ResNetConfig, convert

# float32 through up to forty convolutions, relative to the largest feature of a stage
TOLERANCE = 1e-4


def randomised(model):
    """Random running statistics and affine terms: fresh ones would make the folding an identity."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():  # views of the model's own tensors
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.ndim == 1:
            spread = 0.8 + 0.4 * torch.rand(tensor.shape, generator=generator)
            centred = 0.2 * torch.randn(tensor.shape, generator=generator)
            tensor.copy_(centred if name.endswith(("bias", "running_mean")) else spread)
    return model.eval()


def check(model, config: ResNetConfig, stages: tuple[int, ...], size: tuple[int, int]) -> None:
    import torch

    image = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)
    with torch.no_grad():
        x = model.maxpool(model.act1(model.bn1(model.conv1(torch.from_numpy(image)))))
        expected = []
        for i in range(4):
            x = getattr(model, f"layer{i + 1}")(x)
            expected.append(x.permute(0, 2, 3, 1).numpy())

    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    variables = {"params": convert(state, config, stages)}
    features = jax.jit(ResNet(config, stages).apply)(variables, image.transpose(0, 2, 3, 1))
    for ours, theirs in zip(features, [expected[i] for i in stages], strict=True):
        scale = np.abs(theirs).max()
        assert scale > 0.1
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=TOLERANCE)


def test_wide_resnet_50_2(timm: ModuleType) -> None:
    model = randomised(timm.create_model("wide_resnet50_2", pretrained=False))
    check(model, ResNetConfig(), stages=(0, 1, 2), size=(64, 64))


@pytest.mark.parametrize("stages", [(0,), (1, 3)])
def test_other_sizes_and_an_odd_image(timm: ModuleType, stages: tuple[int, ...]) -> None:
    from timm.models.resnet import Bottleneck
    from timm.models.resnet import ResNet as Oracle

    model = Oracle(Bottleneck, [2, 1, 2, 1], base_width=128, channels=(8, 16, 32, 64))
    config = ResNetConfig((2, 1, 2, 1), inner_channels=16, outer_channels=32)
    check(randomised(model), config, stages, size=(45, 70))


def test_latent_of_the_published_code() -> None:
    """Its first three stages at 256 pixels, brought to the grid of the third."""
    config = EncoderConfig(name="wide_resnet50_2", weights="random")
    assert build_encoder(config, image_size=256).latent_shape == (16, 16, 256 + 512 + 1024)
