"""Weak scaling, counted in compiled programs: twice the devices and the batch."""

from functools import cache

import jax
import pytest

from invad_jax.config.io import load, override
from invad_jax.encoders import describe_encoder
from invad_jax.inference.assembly import init_params
from invad_jax.planning.hlo import Program
from invad_jax.planning.programs import trace_train_step
from invad_jax.runtime.sharding import make_mesh
from tests.products import dot_flops

pytestmark = pytest.mark.usefixtures("optimised")
SMALL = (
    "data.image_size=64", "encoder.stages=0,2", "encoder.pool=8", "denoiser.width=32",
    "denoiser.depth=2", "denoiser.num_heads=2",
)  # fmt: skip


@cache
def step_on(devices, *options):
    """The compiled step with two images a device, and the parameters by path."""
    config = override(
        load("configs/hazelnut.py"), (*SMALL, f"train.batch_size={2 * devices}", *options)
    )
    _, encoder = describe_encoder(config.encoder, config.data.image_size)
    mesh = make_mesh(config.mesh, jax.devices()[:devices])
    compiled = trace_train_step(config, encoder, mesh).lower().compile()
    params = jax.eval_shape(
        lambda rng: init_params(config, encoder.latent_shape, rng), jax.random.key(0)
    )
    sizes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): 4 * leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    return Program(compiled.as_text()), sizes, compiled.memory_analysis().argument_size_in_bytes


FSDP = ("mesh.fsdp=-1",)


def test_products_a_device_stay():
    two, eight = (dot_flops(step_on(n)[0]) for n in (2, 8))
    assert two == eight > 0
    # With fsdp the modulation is computed where its kernel is: all images, a part of the outputs.
    # So may one product of the condition's own layers be, of 16 rows and a kernel of 32 x 32: more
    # than its share by seven eighths of it.
    one, eight = (dot_flops(step_on(n, *FSDP)[0]) for n in (1, 8))
    assert one <= eight <= one + 7 / 8 * 2 * 16 * 32 * 32


@pytest.mark.parametrize("devices", [2, 8])
def test_data_parallel_sends_the_gradient_once(devices):
    program, sizes, _ = step_on(devices)
    traffic = program.collectives()
    assert set(traffic) == {"all-reduce"}
    gradient = sum(sizes.values()) - sizes["positions"]  # which have none
    expected = 2 * (devices - 1) / devices * gradient
    # The loss and its likes are a few numbers.
    assert expected <= traffic["all-reduce"].bytes <= expected + 64
    assert traffic["all-reduce"].dtypes == ("f32",)


def test_fsdp_gathers_the_kernels_of_a_block_twice_and_the_others_once():
    """Forward and backward; outside of the loop over blocks XLA keeps what it gathered."""
    program, sizes, _ = step_on(8, *FSDP)
    traffic = program.collectives()
    kernels = {n: s for n, s in sizes.items() if n.endswith("kernel") and "modulation" not in n}
    expected = 7 / 8 * sum(s * (2 if n.startswith("blocks") else 1) for n, s in kernels.items())
    # Modulations stay: the rows that go to them, and to the small first layers, are 16 x 32 floats.
    rows = 7 / 8 * 16 * 32 * 4
    assert expected <= traffic["all-gather"].bytes <= expected + 16 * rows
    # A program for CPUs sums a gradient on all devices, and each keeps a part.
    gradient = sum(sizes.values()) - sizes["positions"]
    assert 0 < traffic["all-reduce"].bytes <= 2 * 7 / 8 * gradient
    assert traffic["all-reduce"].dtypes == ("f32",)


def test_fsdp_keeps_an_eighth_of_the_state():
    _, sizes, arguments = step_on(8, *FSDP)
    _, _, whole = step_on(1, *FSDP)
    vectors = sum(size for name, size in sizes.items() if name.endswith("bias"))
    # Parameters, average and two moments, of which vectors are whole; latents (2, 2, 2, 40).
    assert arguments < whole / 8 + 4 * vectors + 2 * 2 * 2 * 40 * 4
