"""The vision transformers against timm and `transformers`, on random weights."""

import dataclasses
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest

from invad_jax.config import EncoderConfig
from invad_jax.encoders import build_encoder
from invad_jax.encoders.vit import VARIANTS, ViT, ViTConfig, convert, resample_positions
from invad_jax.errors import UserError
from invad_jax.io.tensors import read_tensors, write_tensors

TOLERANCE = 1e-4  # float32; normalised tokens are of order 1
NATIVE = (3, 3)
OTHER = (2, 5)
"""Grids of patches: a side that shrinks and one that grows, not square."""


def ours(
    state: dict[str, np.ndarray], config: ViTConfig, layers: tuple[int, ...], image: np.ndarray
) -> list[jax.Array]:
    grid = (image.shape[2] // config.patch_size, image.shape[3] // config.patch_size)
    variables = {"params": convert(state, config, layers, grid)}
    return jax.jit(ViT(config, layers).apply)(variables, image.transpose(0, 2, 3, 1))


def random_image(grid: tuple[int, int], patch_size: int) -> np.ndarray:
    size = (2, 3, grid[0] * patch_size, grid[1] * patch_size)
    return np.random.default_rng(0).normal(size=size).astype(np.float32)


def randomise(model) -> None:
    """Moves every tensor off its start: identity norms and scales of 1e-5 would hide mistakes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_factor = parameter.ndim == 1 and name.endswith(("weight", "gamma", "lambda1"))
            parameter.copy_(1 + 0.3 * noise if is_factor else 0.1 * noise)


# --- timm, which has the authors' names


@pytest.mark.parametrize("grid", [NATIVE, OTHER])
@pytest.mark.parametrize(
    ("theirs", "name"),
    [
        ("vit_small_patch16_224.dino", "dino_vits16"),
        ("vit_small_patch14_dinov2", "dinov2_vits14"),
        ("vit_small_patch14_reg4_dinov2", "dinov2_vits14_reg"),
    ],
)
def test_timm(timm: ModuleType, theirs: str, name: str, grid: tuple[int, int]) -> None:
    import torch

    # timm resamples with antialiasing and without an offset, whatever the weights
    config = dataclasses.replace(
        VARIANTS[name], depth=3, position_offset=0.0, position_antialias=True
    )
    side = NATIVE[0] * config.patch_size
    model = timm.create_model(
        theirs, pretrained=False, num_classes=0, depth=3, img_size=side, dynamic_img_size=True
    ).eval()
    randomise(model)
    image = random_image(grid, config.patch_size)
    with torch.no_grad():
        expected = model.forward_intermediates(
            torch.from_numpy(image), indices=[0, 2], norm=True, intermediates_only=True
        )
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    features = ours(state, config, (0, 2), image)
    for mine, tensor in zip(features, expected, strict=True):
        assert mine.shape == (2, *grid, 384)
        np.testing.assert_allclose(mine, tensor.numpy().transpose(0, 2, 3, 1), TOLERANCE, TOLERANCE)
    assert "block_1" not in convert(state, config, (0,), grid)


def test_as_an_encoder(timm: ModuleType, tmp_path: Path) -> None:
    """From bytes and a file of weights to the latent, with timm's own normalisation."""
    import torch

    model = timm.create_model("vit_small_patch16_224.dino", pretrained=False, img_size=48).eval()
    randomise(model)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    write_tensors(tmp_path / "dino.safetensors", state)
    config = EncoderConfig(
        name="dino_vits16", weights=str(tmp_path / "dino.safetensors"), stages=(1, 3)
    )
    encoder = build_encoder(config, image_size=48)
    image = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    latent = jax.jit(encoder.apply)(encoder.variables, image)

    mean, std = (np.array(model.pretrained_cfg[key], np.float32) for key in ("mean", "std"))
    normalised = ((image / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    with torch.no_grad():
        layers = model.forward_intermediates(
            torch.from_numpy(normalised), indices=[1, 3], norm=True, intermediates_only=True
        )
    expected = torch.cat(layers, dim=1).permute(0, 2, 3, 1).numpy()
    assert encoder.latent_shape == latent.shape[1:] == (3, 3, 768)
    np.testing.assert_allclose(latent, expected, TOLERANCE, TOLERANCE)


# --- transformers, through the files it writes, which have the names of those on the hub


@pytest.mark.parametrize("grid", [NATIVE, OTHER])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ViT", "dino_vits16"),
        ("Dinov2", "dinov2_vits14"),
        ("Dinov2WithRegisters", "dinov2_vits14_reg"),
        ("DINOv3ViT", "dinov3_vits16"),
    ],
)
def test_transformers(tmp_path: Path, kind: str, name: str, grid: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch", reason="the oracle needs torch")
    try:
        import transformers

        oracle, sizes = (
            getattr(transformers, f"{kind}Model"),
            getattr(transformers, f"{kind}Config"),
        )
    except ImportError as error:
        pytest.skip(f"transformers cannot be imported: {error}")
    config = dataclasses.replace(
        VARIANTS[name], width=32, head_channels=8, depth=2, position_offset=0.0
    )
    model = oracle(
        sizes(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
            image_size=NATIVE[0] * config.patch_size, patch_size=config.patch_size,
            layer_norm_eps=config.norm_epsilon, num_register_tokens=config.num_registers,
        )
    ).eval()  # fmt: skip
    randomise(model)
    model.save_pretrained(tmp_path)
    image = random_image(grid, config.patch_size)
    options = {"interpolate_pos_encoding": True} if kind == "ViT" else {}
    with torch.no_grad():
        tokens = model(torch.from_numpy(image), **options).last_hidden_state
    expected = tokens[:, 1 + config.num_registers :].numpy().reshape(2, *grid, 32)
    state = read_tensors(tmp_path / "model.safetensors")
    (feature,) = ours(state, config, (1,), image)
    np.testing.assert_allclose(feature, expected, TOLERANCE, TOLERANCE)


def test_the_authors_names_for_dinov3() -> None:
    """Their layout, written by hand: one qkv, and a mask that takes the bias off the keys."""
    config = dataclasses.replace(
        VARIANTS["dinov3_vits16"], width=8, head_channels=4, depth=1, patch_size=2
    )
    rng = np.random.default_rng(0)
    shapes = {
        "cls_token": (1, 1, 8), "storage_tokens": (1, 4, 8), "mask_token": (1, 8),
        "patch_embed.proj.weight": (8, 3, 2, 2), "patch_embed.proj.bias": (8,),
        "blocks.0.norm1.weight": (8,), "blocks.0.norm1.bias": (8,),
        "blocks.0.attn.qkv.weight": (24, 8), "blocks.0.attn.qkv.bias": (24,),
        "blocks.0.attn.proj.weight": (8, 8), "blocks.0.attn.proj.bias": (8,),
        "blocks.0.ls1.gamma": (8,), "blocks.0.norm2.weight": (8,), "blocks.0.norm2.bias": (8,),
        "blocks.0.mlp.fc1.weight": (32, 8), "blocks.0.mlp.fc1.bias": (32,),
        "blocks.0.mlp.fc2.weight": (8, 32), "blocks.0.mlp.fc2.bias": (8,),
        "blocks.0.ls2.gamma": (8,), "norm.weight": (8,), "norm.bias": (8,),
        "rope_embed.periods": (1,),
    }  # fmt: skip
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    state["blocks.0.attn.qkv.bias_mask"] = np.repeat(np.float32([1, 0, 1]), 8)
    params = convert(state, config, (0,), (3, 3))
    np.testing.assert_array_equal(params["register_tokens"], state["storage_tokens"][0])
    qkv = params["block_0"]["attn"]["qkv"]
    np.testing.assert_array_equal(qkv["kernel"], state["blocks.0.attn.qkv.weight"].T)
    np.testing.assert_array_equal(qkv["bias"][8:16], 0)
    np.testing.assert_array_equal(qkv["bias"][:8], state["blocks.0.attn.qkv.bias"][:8])
    np.testing.assert_array_equal(qkv["bias"][16:], state["blocks.0.attn.qkv.bias"][16:])


# --- resampling of the positions


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("grid", [(16, 16), (28, 9)])
def test_positions_by_size(grid: tuple[int, int], antialias: bool) -> None:
    torch = pytest.importorskip("torch", reason="the oracle needs torch")
    positions = np.random.default_rng(0).normal(size=(14, 14, 5)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(positions).permute(2, 0, 1)[None],
        size=grid, mode="bicubic", antialias=antialias,
    )[0].permute(1, 2, 0)  # fmt: skip
    resampled = resample_positions(positions, grid, 0.0, antialias)
    # float32 weights there, float64 here
    np.testing.assert_allclose(resampled, expected.numpy(), atol=1e-5)


def test_positions_with_the_offset_of_the_authors() -> None:
    """Their code passes (grid + 0.1) / native as the scale factor."""
    torch = pytest.importorskip("torch", reason="the oracle needs torch")
    positions = np.random.default_rng(0).normal(size=(37, 37, 5)).astype(np.float32)
    grid = (16, 41)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(positions).permute(2, 0, 1)[None],
        scale_factor=tuple((n + 0.1) / 37 for n in grid), mode="bicubic",
    )[0].permute(1, 2, 0)  # fmt: skip
    assert expected.shape[:2] == grid
    resampled = resample_positions(positions, grid, 0.1, antialias=False)
    # float32 weights there, float64 here: coordinates up to 37 are rounded to 4e-6
    np.testing.assert_allclose(resampled, expected.numpy(), atol=5e-5)
    assert np.abs(resampled - resample_positions(positions, grid, 0.0, antialias=False)).max() > 0.1


# --- what does not fit


@pytest.mark.parametrize("size", [10, 256])
def test_images_are_whole_patches(size: int) -> None:
    with pytest.raises(UserError, match=rf"data\.image_size={size}: .*multiple of its patch"):
        build_encoder(EncoderConfig(name="dinov2_vits14", weights="random"), size)


def test_weights_of_another_variant(timm: ModuleType) -> None:
    config = dataclasses.replace(VARIANTS["dinov2_vits14_reg"], depth=1)
    model = timm.create_model(
        "vit_small_patch14_reg4_dinov2", pretrained=False, num_classes=0, depth=1, img_size=28
    )
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"^unexpected: register_tokens$"):
        convert(state, dataclasses.replace(config, num_registers=0), (0,), (2, 2))
    with pytest.raises(UserError, match=r"attn.proj.bias is \(384,\), expected \(768,\)"):
        convert(state, dataclasses.replace(config, width=768), (0,), (2, 2))
    del state["reg_token"]
    with pytest.raises(UserError, match=r"^missing: register_tokens$"):
        convert(state, config, (0,), (2, 2))
