"""The denoisers' shapes, options and gradients, and the exchange with published names."""

import dataclasses
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from invad_jax.config import DenoiserConfig
from invad_jax.converters.published import (
    denoiser_config_from_published,
    params_from_published,
    params_to_published,
    unused_from_published,
)
from invad_jax.denoisers import build_denoiser
from invad_jax.denoisers.dit import patchify, unpatchify
from invad_jax.denoisers.layers import position_sinusoids, timestep_sinusoids
from invad_jax.errors import UserError

DIT = DenoiserConfig(name="dit", width=32, depth=2, num_heads=4)
PATCHED = dataclasses.replace(DIT, patch_size=2)
UNET = DenoiserConfig(
    name="unet", width=12, num_res_blocks=1, channel_mult=(1, 2),
    attention_downsamplings=(2,), head_channels=8,
)  # fmt: skip
FLAT_UNET = DenoiserConfig(
    name="unet", width=16, num_res_blocks=1, channel_mult=(1,),
    attention_downsamplings=(), head_channels=16,
)  # fmt: skip
MLP = DenoiserConfig(name="mlp", width=24, depth=3)
CASES = {
    "dit": (DIT, (4, 4, 3)),
    "dit_patched_oblong": (PATCHED, (4, 6, 3)),
    "dit_diffusers": (dataclasses.replace(DIT, name="dit_diffusers"), (4, 6, 3)),
    "unet": (UNET, (4, 6, 5)),
    "unet_one_level_oblong": (FLAT_UNET, (3, 5, 2)),
    "mlp": (MLP, (1, 5, 7)),
}
KINDS = ("dit", "unet", "mlp")
PUBLISHED = [case for case in CASES if case != "dit_diffusers"]
T = jnp.array([0, 500, 999])


def inputs(latent_shape):
    return jax.random.normal(jax.random.key(1), (len(T), *latent_shape))


@cache
def random_params(cfg, latent_shape):
    """Like those of a trained network: nothing is zero."""
    model = build_denoiser(cfg, latent_shape)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs(latent_shape), T)["params"]
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda s: 0.2 * rng.standard_normal(s.shape, np.float32), shapes)


@cache
def compiled(cfg, latent_shape):
    return jax.jit(build_denoiser(cfg, latent_shape).apply)


def apply(cfg, latent_shape, params, x_t, t):
    return compiled(cfg, latent_shape)({"params": params}, x_t, t)


@cache
def loss_and_grad(cfg, latent_shape):
    x_t = inputs(latent_shape)
    model = build_denoiser(cfg, latent_shape)
    target = jnp.roll(x_t, 1, axis=0)

    def loss(params):
        return jnp.mean(jnp.square(model.apply({"params": params}, x_t, T) - target))

    return jax.jit(jax.value_and_grad(loss))(random_params(cfg, latent_shape))


@pytest.mark.parametrize("case", CASES)
def test_fresh_denoiser_predicts_zero_in_the_shape_of_its_input(case):
    cfg, latent_shape = CASES[case]
    x_t = inputs(latent_shape)
    model = build_denoiser(cfg, latent_shape)
    eps, _ = jax.jit(model.init_with_output)(
        jax.random.key(0, impl="rbg"), x_t, T
    )  # compiles fastest
    assert eps.shape == x_t.shape
    assert eps.dtype == jnp.float32
    assert np.all(np.asarray(eps) == 0)


@pytest.mark.parametrize("case", CASES)
def test_timestep_is_of_each_sample_or_of_the_whole_batch(case):
    cfg, latent_shape = CASES[case]
    params, x_t = random_params(cfg, latent_shape), inputs(latent_shape)
    eps = apply(cfg, latent_shape, params, x_t, T)
    shared = apply(cfg, latent_shape, params, x_t, T[1:2].astype(jnp.float32))
    assert shared.shape == eps.shape == x_t.shape
    scale = np.abs(eps).max()
    # A product with one row of modulations may sum in another order: a few float32 roundings.
    np.testing.assert_allclose(shared[1], eps[1], rtol=1e-4, atol=1e-5 * scale)
    for other in (0, 2):  # far above rounding
        assert np.abs(shared[other] - eps[other]).max() > 1e-3 * scale


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_activations_stay_close_and_leave_float32(kind):
    cfg, latent_shape = CASES[kind]
    half = dataclasses.replace(cfg, dtype="bfloat16")
    params, x_t = random_params(cfg, latent_shape), inputs(latent_shape)
    model = build_denoiser(half, latent_shape)
    fresh = jax.eval_shape(model.init, jax.random.key(0), x_t, T)
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    exact = apply(cfg, latent_shape, params, x_t, T)
    rounded = apply(half, latent_shape, params, x_t, T)
    assert rounded.dtype == jnp.float32
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    # bfloat16 rounds to 2^-9 relative; some ten roundings in a row. Not zero, or it did nothing.
    assert 1e-5 < error < 0.05


@pytest.mark.parametrize("case", CASES)
def test_gradient_reaches_every_parameter_but_the_fixed_positions(case):
    cfg, latent_shape = CASES[case]
    _, grads = loss_and_grad(cfg, latent_shape)
    sizes = {path: np.abs(grad).max() for path, grad in flatten_dict(grads, sep="/").items()}
    # Rounding leaves 1e-7 of the largest where a normalisation cancels a parameter.
    dead = {path for path, size in sizes.items() if size < 1e-5 * max(sizes.values())}
    assert dead == ({"positions"} if cfg.name == "dit" else set())


@pytest.mark.parametrize("kind", KINDS)
def test_remat_changes_memory_only(kind):
    cfg, latent_shape = CASES[kind]
    plain = loss_and_grad(cfg, latent_shape)
    again = loss_and_grad(dataclasses.replace(cfg, remat=True), latent_shape)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain[1]))
    # The recomputed activations may be fused, and so rounded, in another way.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale), plain, again
    )


@pytest.mark.parametrize(
    ("cfg", "billions"),
    [(DenoiserConfig(), 1.224), (DenoiserConfig(name="unet", width=512), 1.43)],
    ids=["dit", "unet"],
)
def test_paper_sizes(cfg, billions):
    latent_shape = (16, 16, 272)
    model = build_denoiser(cfg, latent_shape)
    x_t = jax.ShapeDtypeStruct((1, *latent_shape), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x_t, jnp.zeros(1, jnp.int32))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    if cfg.name == "dit":  # the published count includes an embedder and labels it never runs
        count += (272 + 1) * 2048 + 15 * 2048
    # Half a unit of the last digit that is quoted.
    assert count / 1e9 == pytest.approx(billions, abs=0.5 * 10 ** -len(f"{billions}".split(".")[1]))


def test_timestep_sinusoids_follow_the_formula():
    t, dim = [0, 1, 999.5], 8
    got = timestep_sinusoids(jnp.array(t), dim)
    for row, value in zip(np.asarray(got), t, strict=True):
        angles = [value * 10_000 ** (-i / (dim // 2)) for i in range(dim // 2)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        # A float32 angle near 1000 is known to 6e-5.
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_position_sinusoids_put_the_column_first():
    height, width, dim = 2, 3, 8
    got = position_sinusoids(height, width, dim)
    assert got.shape == (1, 6, 8)
    for row in range(height):
        for column in range(width):
            expected = []
            for coordinate in (column, row):
                angles = [coordinate * 10_000 ** (-i / 2) for i in range(2)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            # float32 of a float64 formula.
            np.testing.assert_allclose(got[0, row * width + column], expected, atol=1e-7)


def test_patches_are_row_major_and_come_back():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    tokens = np.asarray(patchify(jnp.asarray(x), 2))
    assert tokens.shape == (2, 6, 12)
    # Token 4 of the 2 x 3 patches is the middle one of the second row.
    np.testing.assert_array_equal(tokens[1, 4], x[1, 2:4, 2:4].reshape(-1))
    np.testing.assert_array_equal(unpatchify(jnp.asarray(tokens), 2, (4, 6, 3)), x)


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_names_take_every_parameter_there_and_back(case):
    cfg, latent_shape = CASES[case]
    params = random_params(cfg, latent_shape)
    published = params_to_published(params, cfg)
    prefixed = {f"module.{key}": value for key, value in published.items()}
    back = params_from_published(prefixed, cfg, latent_shape)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    unused = unused_from_published(prefixed, cfg)
    assert unused.keys() == params_to_published(params, cfg, {}).keys() ^ published.keys()
    assert len(unused) == {"dit": 4, "mlp": 3, "unet": 1}[cfg.name]


@pytest.mark.parametrize("case", PUBLISHED)
def test_config_is_read_from_shapes(case):
    cfg, latent_shape = CASES[case]
    published = params_to_published(random_params(cfg, latent_shape), cfg)
    if cfg.name == "unet":
        hints = {"head_channels": cfg.head_channels}
    else:
        hints = {"num_heads": cfg.num_heads}
    read = denoiser_config_from_published(published, hints)
    used = {
        "dit": ("width", "depth", "num_heads", "patch_size"),
        "mlp": ("width", "depth"),
        "unet": (
            "width", "num_res_blocks", "channel_mult", "attention_downsamplings", "head_channels",
        ),
    }[cfg.name]  # fmt: skip
    for option in ("name", *used):
        assert getattr(read, option) == getattr(cfg, option), option


def test_patch_embedding_is_the_published_convolution():
    latent_shape, p = (4, 6, 3), PATCHED.patch_size
    params, x = random_params(PATCHED, latent_shape), np.asarray(inputs(latent_shape))
    kernel = params_to_published(params, PATCHED)["net.x_embedder.proj.weight"]  # (D, C, p, p)
    tokens = np.asarray(patchify(jnp.asarray(x), p)) @ params["patch_embedding"]["kernel"]
    for n, (row, column) in enumerate(np.ndindex(2, 3)):
        window = x[:, p * row : p * row + p, p * column : p * column + p]  # (B, p, p, C)
        expected = np.einsum("dcij,bijc->bd", kernel, window)
        # Sums of 12 float32 products.
        np.testing.assert_allclose(tokens[:, n], expected, rtol=1e-4, atol=1e-5)


def test_all_misfits_are_named_at_once():
    published = params_to_published(random_params(DIT, (4, 4, 3)), DIT)
    del published["net.blocks.1.mlp.fc1.bias"]
    published["net.blocks.0.gate.weight"] = np.zeros(3, np.float32)
    published["net.final_layer.linear.bias"] = np.zeros(6, np.float32)
    with pytest.raises(UserError) as caught:
        params_from_published(published, DIT, (4, 4, 3), source="model.pth")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "model.pth", "missing: net.blocks.1.mlp.fc1.bias", "unexpected: net.blocks.0.gate.weight",
        "net.final_layer.linear.bias is (6,), expected (3,)",
    ):  # fmt: skip
        assert part in message


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"net.conv.weight": np.zeros((3, 3))}, "no denoiser of the published code"),
        ({"net.x_embedder.proj.weight": np.zeros((8, 3, 1, 1))}, "net.blocks.0.mlp.fc1.weight"),
        (
            {
                "net.x_embedder.proj.weight": np.zeros((8, 3, 1, 1)),
                "net.blocks.0.mlp.fc1.weight": np.zeros((16, 8)),
            },
            "mlp_ratio is 2, expected 4",
        ),
        ({"net.x_embedder.proj.weight": np.zeros((8, 3))}, "not a whole published denoiser"),
    ],
)
def test_other_checkpoints_are_refused(tensors, message):
    with pytest.raises(UserError, match=message):
        denoiser_config_from_published(tensors, {})


@pytest.mark.parametrize(
    ("cfg", "change", "latent_shape", "option"),
    [
        (DIT, {"patch_size": 3}, (4, 4, 3), "denoiser.patch_size=3"),
        (DIT, {"num_heads": 3}, (4, 4, 3), "denoiser.num_heads=3"),
        (DIT, {"width": 30, "num_heads": 1}, (4, 4, 3), "denoiser.width=30"),
        (UNET, {"channel_mult": (1, 1, 1, 1)}, (4, 4, 3), "denoiser.channel_mult"),
        (UNET, {"channel_mult": (1, 2)}, (4, 5, 3), "denoiser.channel_mult"),
        (UNET, {"channel_mult": ()}, (4, 4, 3), "denoiser.channel_mult"),
        (UNET, {"channel_mult": (1, 0)}, (4, 4, 3), "denoiser.channel_mult"),
        (UNET, {"width": 17}, (4, 4, 3), "denoiser.width=17"),
        (UNET, {"head_channels": 5}, (4, 4, 3), "denoiser.head_channels=5"),
        (DIT, {"name": "transformer"}, (4, 4, 3), "denoiser.name=transformer"),
    ],
)
def test_sizes_that_do_not_fit_name_their_option(cfg, change, latent_shape, option):
    with pytest.raises(UserError) as caught:
        build_denoiser(dataclasses.replace(cfg, **change), latent_shape)
    assert str(caught.value).startswith(option)
    assert "\n" not in str(caught.value)
