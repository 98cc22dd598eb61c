"""What follows from t alone, computed beforehand: the same numbers from fewer parameters."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers import build_denoiser, fixed_steps
from tests.parameters import random_like

SHAPE, ASKED = (4, 4, 8), (999, 0, 500)  # in any order


def sizes(name, **options):
    return DenoiserConfig(
        name=name, width=32, depth=3, num_heads=4, channel_mult=(1, 2), head_channels=16,
        num_res_blocks=1, **options,
    )  # fmt: skip


@cache
def network(cfg):
    """(apply, parameters whose last layers are not zero, x_t)."""
    model = build_denoiser(cfg, SHAPE)
    x_t = jnp.asarray(np.random.default_rng(1).standard_normal((3, *SHAPE)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x_t, jnp.array([3]))["params"]
    params = jax.tree.map(jnp.asarray, random_like(shapes, 0.1))
    return jax.jit(lambda params, x, t: model.apply({"params": params}, x, t)), params, x_t


def folded(cfg, params, timesteps=ASKED):
    tables = jax.jit(partial(fixed_steps.tables, cfg, timesteps))(params)
    return fixed_steps.fold(params, tables)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", sorted(fixed_steps.EMBEDDINGS))
def test_at_the_timesteps_it_is_the_network(name, dtype):
    cfg = sizes(name, dtype=dtype)
    apply, params, x_t = network(cfg)
    fixed = folded(cfg, params)
    for t in ([999], [0], [500], [500, 0, 999]):  # of the whole batch, or of each row
        expected = apply(params, x_t, jnp.array(t))
        # The rounding of one unit of its type in a table: up to 0.7 % of what comes out.
        tolerance = 1e-5 if dtype == "float32" else 2e-2 * np.abs(expected).max()
        np.testing.assert_allclose(apply(fixed, x_t, jnp.array(t)), expected, atol=tolerance)


@pytest.mark.parametrize("name", sorted(fixed_steps.EMBEDDINGS))
def test_elsewhere_it_is_no_number_and_the_layers_are_gone(name):
    cfg = sizes(name)
    apply, params, x_t = network(cfg)
    fixed = folded(cfg, params)
    rows = apply(fixed, x_t, jnp.array([0, 7, 999]))
    assert np.isnan(rows[1]).all()
    assert np.isfinite(rows[0]).all()
    assert np.isfinite(rows[2]).all()
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(fixed)
    ]
    assert not any("modulation/dense" in n or "time_embedding/hidden" in n for n in names)
    D, blocks = cfg.width, cfg.depth
    vectors = {"mlp": 3}.get(name, 6)
    tables = len(ASKED) * D * (vectors * blocks + 2)
    gone = count(params) - count(fixed) + tables
    # The matrices alone: D x vectors D in each block, D x 2 D at the end.
    assert gone > D * D * (vectors * blocks + 2)


def test_what_is_not_asked_or_enters_elsewhere_stays():
    for dtype in ("float32", "bfloat16"):
        unet = sizes("unet", dtype=dtype)
        _, params, _ = network(unet)
        assert folded(unet, params) is params
    _, params, _ = network(sizes("dit"))
    assert folded(sizes("dit"), params, timesteps=()) is params


def test_what_is_folded_away_moves_to_the_host():
    _, params, _ = network(sizes("dit"))
    moved = fixed_steps.on_host(sizes("dit"), params)
    jax.tree.map(np.testing.assert_array_equal, moved, params)
    assert isinstance(moved["modulation"]["dense"]["kernel"], np.ndarray)
    assert isinstance(moved["blocks"]["modulation"]["dense"]["kernel"], np.ndarray)
    assert isinstance(moved["out"]["kernel"], jax.Array)
    half = fixed_steps.on_host(sizes("dit", dtype="bfloat16"), params)
    assert isinstance(half["patch_embedding"]["kernel"], np.ndarray)


@pytest.mark.parametrize("name", sorted(fixed_steps.EMBEDDINGS))
def test_kernels_of_bfloat16_are_held_in_half_the_bytes(name):
    cfg = sizes(name, dtype="bfloat16")
    apply, params, x_t = network(cfg)
    fixed = folded(cfg, params)
    narrow, t = fixed_steps.narrow(cfg, fixed), jnp.array([500])
    np.testing.assert_array_equal(apply(narrow, x_t, t), apply(fixed, x_t, t))
    kernels = {
        path: leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(narrow)
        if path[-1].key == "kernel"
    }
    wide = {path[0].key for path, leaf in kernels.items() if leaf.dtype == jnp.float32}
    assert wide == {"out"}
    before, after = (sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in (fixed, narrow))
    halved = sum(leaf.size for leaf in kernels.values()) - narrow["out"]["kernel"].size
    assert before - after == 2 * halved
    whole = sizes(name)
    assert fixed_steps.narrow(whole, params) is params
