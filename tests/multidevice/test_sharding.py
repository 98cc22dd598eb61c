"""Eight CPU devices: what is sharded equals what is not."""

import dataclasses
import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from invad_jax.config import Config, DenoiserConfig, MeshConfig, TrainConfig
from invad_jax.config.io import override
from invad_jax.coordinates import Neighbourhood
from invad_jax.denoisers import build_denoiser
from invad_jax.detector import Detector, DetectorVariables, LatentStats
from invad_jax.diffusion.schedule import linear_alpha_bar
from invad_jax.errors import UserError
from invad_jax.inference.arrays import reference_to_device
from invad_jax.normality import reference
from invad_jax.normality.mixture import Component
from invad_jax.paradigms import paradigm_of
from invad_jax.planning.hlo import Program
from invad_jax.runtime.sharding import (
    batch_sharding,
    check_batch,
    global_batch,
    make_mesh,
    replicated,
    state_sharding,
    train_batch_sharding,
)
from invad_jax.training.held_out import HeldOut
from invad_jax.training.loop import compile_step
from invad_jax.training.step import create_state, make_optimizer
from tests.losses import diffusion_loss
from tests.parameters import random_like
from tests.products import dot_flops

LATENT_SHAPE = (4, 4, 8)
ALPHA_BAR = linear_alpha_bar(1000, 1e-4, 2e-2)
CFG = TrainConfig(num_steps=10, warmup_steps=0, learning_rate=1e-3, batch_size=8)
FROZEN = LatentStats(np.zeros(8, np.float32), np.ones(8, np.float32))
SIZES = {
    "dit": DenoiserConfig(name="dit", width=32, depth=2, num_heads=4),
    "dit, remat": DenoiserConfig(name="dit", width=32, depth=2, num_heads=4, remat=True),
    "unet": DenoiserConfig(
        name="unet", width=32, num_res_blocks=1, channel_mult=(1, 2), head_channels=16,
        attention_downsamplings=(),  # the middle attends
    ),
    "mlp": DenoiserConfig(name="mlp", width=32, depth=2),
}  # fmt: skip


def mesh_of(data, fsdp, tensor):
    cfg = MeshConfig(fsdp=fsdp, tensor=tensor)
    return make_mesh(cfg, jax.devices()[: data * fsdp * tensor])


def params_of(name):
    """The same ones each time, none zero: zeros at the end would hide what differs before it."""
    x, t = jnp.zeros((1, *LATENT_SHAPE)), jnp.zeros((1,), jnp.int32)
    network = build_denoiser(SIZES[name], LATENT_SHAPE)
    return random_like(jax.eval_shape(network.init, jax.random.key(0), x, t)["params"], 0.1)


def planned(name, tx, mesh):
    """The shapes of a state, and where its arrays are to lie."""
    rng = jax.random.key(0)
    state = jax.eval_shape(partial(create_state, tx=tx), params_of(name), FROZEN, rng)
    return state, state_sharding(state, mesh)


@cache
def train(name, mesh_shape, parts=1):
    """Three steps of a small network on part of the devices; the final state."""
    mesh, tx = mesh_of(*mesh_shape), optax.sgd(0.1)
    denoiser = build_denoiser(SIZES[name], LATENT_SHAPE)
    _, shardings = planned(name, tx, mesh)
    create = jax.jit(partial(create_state, tx=tx), out_shardings=shardings)
    state = create(params_of(name), FROZEN, jax.random.key(0))
    loss_fn = diffusion_loss(lambda p, x, t: denoiser.apply({"params": p}, x, t), ALPHA_BAR)
    cfg = dataclasses.replace(CFG, grad_accumulation=parts)
    step_fn = compile_step(cfg, loss_fn, tx, mesh, shardings)
    rng = np.random.default_rng(0)
    for _ in range(3):
        batch = {"latent": rng.standard_normal((8, *LATENT_SHAPE), np.float32)}
        state, scalars = step_fn(state, global_batch(batch, mesh, train_batch_sharding(mesh)))
    return state, float(scalars["loss"])


@cache
def on_one_device(name):
    """Parameters and loss, on the host."""
    state, loss = train(name, (1, 1, 1))
    return jax.device_get(state.params), loss


@pytest.mark.parametrize(
    ("name", "mesh_shape", "parts"),
    [
        ("dit", (8, 1, 1), 1),
        ("dit", (2, 4, 1), 1),
        ("dit", (2, 1, 4), 4),
        ("dit", (2, 2, 2), 2),
        ("dit, remat", (1, 2, 4), 1),
        ("unet", (2, 4, 1), 1),
        ("mlp", (2, 2, 2), 1),
    ],
)
def test_training_on_a_mesh_equals_one_device(name, mesh_shape, parts):
    """With plain gradient descent: Adam would blow up rounding where a gradient is almost zero."""
    params, loss = on_one_device(name.removesuffix(", remat"))
    sharded, sharded_loss = train(name, mesh_shape, parts)
    # The same float32 sums in another order.
    assert sharded_loss == pytest.approx(loss, rel=1e-6)
    worst = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), jax.device_get(sharded.params), params)
    assert max(jax.tree.leaves(worst)) < 1e-6


@pytest.mark.parametrize(("mesh_shape", "parts"), [((8, 1, 1), 1), ((2, 2, 2), 2)])
def test_the_held_out_loss_on_a_mesh_equals_one_device_and_is_spread(mesh_shape, parts):
    rows = np.random.default_rng(0).standard_normal((20, *LATENT_SHAPE), np.float32)
    denoiser, frozen = build_denoiser(SIZES["dit"], LATENT_SHAPE), LatentStats(*np.ones((2, 8)))
    loss_fn = diffusion_loss(lambda p, x, t: denoiser.apply({"params": p}, x, t), ALPHA_BAR)
    params, _ = on_one_device("dit")
    one = HeldOut(loss_fn, frozen, rows, 8, mesh_of(1, 1, 1))
    mesh = mesh_of(*mesh_shape)
    several = HeldOut(loss_fn, frozen, rows, 8, mesh)
    sharded, _ = train("dit", mesh_shape, parts)
    expected = pytest.approx(one.loss(params), rel=1e-6)  # the same sums in another order
    assert several.loss(sharded.params) == expected
    for leaf in jax.tree.leaves(several._batches[0]):
        assert leaf.addressable_shards[0].data.shape[0] == 8 // (mesh_shape[0] * mesh_shape[1])


def test_fsdp_splits_kernels_averages_and_moments():
    adam, shardings = planned("dit", make_optimizer(CFG), mesh_of(2, 4, 1))
    trained, _ = train("dit", (2, 4, 1))
    held = jax.tree.map(lambda leaf: leaf.sharding, trained)
    for tree, where in (
        (adam.params, shardings.params), (adam.params, held.params),
        (adam.ema_params, shardings.ema_params), (adam.ema_params, held.ema_params),
        (adam.opt_state, shardings.opt_state),
    ):  # fmt: skip
        parts = jax.tree.map(lambda leaf, its: its.shard_shape(leaf.shape), tree, where)
        kernels = [
            (leaf, part) for (path, leaf), part in zip(
                jax.tree_util.tree_leaves_with_path(tree),
                jax.tree.structure(tree).flatten_up_to(parts), strict=True,
            )
            if "kernel" in jax.tree_util.keystr(path[-1:])
        ]  # fmt: skip
        assert len(kernels) >= 10  # of a DiT; vectors are whole
        for leaf, part in kernels:
            assert math.prod(part) * 4 == leaf.size


def test_what_is_no_vector_is_split_along_its_largest_divisible_dimension():
    mesh = make_mesh(MeshConfig(fsdp=4))
    tree = {"a": jnp.zeros((3, 8, 16)), "b": jnp.zeros(3), "c": jnp.zeros((12, 5))}
    specs = {k: s.spec for k, s in state_sharding(tree, mesh).items()}
    assert specs == {
        "a": PartitionSpec(None, None, "fsdp"),
        "b": PartitionSpec(),
        "c": PartitionSpec("fsdp"),
    }


def learnt(lessons):
    """Of 12 images of noise; what it is does not matter here."""
    rng = np.random.default_rng(2)
    normal = rng.standard_normal((12, 1, *LATENT_SHAPE)).astype(np.float32)
    return reference_to_device(reference.learn(lessons, [Component("nut", [normal])]))


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize(
    "way",
    ["scoring.prior=standard_normal", "scoring.prior=fitted",
     "inversion.paradigm=nearest_neighbour", "inversion.paradigm=residual"],
)  # fmt: skip
def test_the_detector_on_a_mesh_equals_one_device(way):
    paradigm = paradigm_of(override(Config(), [way]))
    denoiser = build_denoiser(SIZES["dit"], LATENT_SHAPE)
    detector = Detector(
        encode=lambda variables, image: image,
        denoise=lambda p, x, t: denoiser.apply({"params": p}, x, t),
        states=paradigm.states,
        compare=paradigm.compare,
        inverts=paradigm.inverts,
        whitened=False,
        where=Neighbourhood(0, 1),
        image_size=16,
    )
    known = learnt(paradigm.lessons) if paradigm.lessons else None
    variables = DetectorVariables((), params_of("dit"), FROZEN, known)
    latent = np.random.default_rng(1).standard_normal((16, *LATENT_SHAPE)).astype(np.float32)
    single = jax.jit(detector.score_latents)(variables, latent)
    mesh = make_mesh(MeshConfig())
    on_mesh = partial(jax.jit, out_shardings=replicated(mesh))(detector.score_latents)
    spread = (
        jax.device_put(variables, replicated(mesh)), jax.device_put(latent, batch_sharding(mesh))
    )  # fmt: skip
    sharded = on_mesh(*spread)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),  # order of sums
        sharded, single,
    )  # fmt: skip
    left_spread = jax.jit(detector.score_latents, out_shardings=batch_sharding(mesh))
    program = Program(left_spread.lower(*spread).compile().as_text())
    assert dot_flops(program) > 0
    assert program.collectives() == {}  # no image asks another device


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"mesh\.fsdp=0: must be positive, or -1"):
        make_mesh(MeshConfig(fsdp=0))
    with pytest.raises(UserError, match=r"mesh\.tensor takes more devices"):
        check_batch(TrainConfig(batch_size=4), make_mesh(MeshConfig(fsdp=-1)))
    check_batch(TrainConfig(batch_size=4), make_mesh(MeshConfig(tensor=2)))
    with pytest.raises(UserError, match="grad_accumulation=4"):
        check_batch(TrainConfig(batch_size=16, grad_accumulation=4), make_mesh(MeshConfig()))
    with pytest.raises(UserError, match="8 devices"):
        make_mesh(dataclasses.replace(MeshConfig(), fsdp=3))
    with pytest.raises(UserError, match="multiple of the 8 devices"):
        check_batch(TrainConfig(batch_size=12), make_mesh(MeshConfig()))
