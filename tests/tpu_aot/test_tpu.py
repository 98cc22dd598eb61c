"""Compiled for TPUs, with libtpu and no TPU: what devices send each other."""

import importlib.util

import jax
import pytest

from invad_jax.config import TERMS
from invad_jax.config.io import load, override
from invad_jax.encoders import describe_encoder
from invad_jax.inference.assembly import init_params
from invad_jax.planning import estimate as estimates
from invad_jax.planning.hlo import BETWEEN_SLICES
from invad_jax.planning.programs import measure, trace_detector, trace_train_step
from invad_jax.planning.topologies import topology_devices
from invad_jax.runtime.sharding import make_mesh

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="no libtpu is installed"),
    pytest.mark.usefixtures("optimised"),
]
SMALL = (
    "data.image_size=64", "encoder.stages=0,2", "encoder.pool=4", "denoiser.width=128",
    "denoiser.depth=2", "denoiser.num_heads=2", "train.batch_size=16", "eval.batch_size=16",
)  # fmt: skip


def compiled(trace, topology, *options):
    config = override(load("configs/hazelnut.py"), (*SMALL, *options))
    _, encoder = describe_encoder(config.encoder, config.data.image_size)
    devices, chip = topology_devices(topology)
    mesh = make_mesh(config.mesh, devices)
    row = measure(trace(config, encoder, mesh))
    params = jax.eval_shape(
        lambda rng: init_params(config, encoder.latent_shape, rng), jax.random.key(0)
    )
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    positions = params["positions"].size * 4
    row |= {"chip": chip, "devices": len(devices), "latent": encoder.latent_shape}
    return row, size, positions


@pytest.mark.parametrize("topology", ["v5e:2x2", "v4:2x2x2"])
def test_data_parallel_training_reduces_the_gradient_and_nothing_else(topology):
    row, size, positions = compiled(trace_train_step, topology)
    assert set(row["collectives"]) == {"all-reduce"}
    reduce, n = row["collectives"]["all-reduce"], row["devices"]
    assert reduce["dtypes"] == ("f32",)
    # A ring sends 2 (n - 1) / n of every gradient; positions have none. The loss is 4 bytes.
    expected = (size - positions) * 2 * (n - 1) / n
    assert expected <= reduce["bytes"] <= expected + 1024


@pytest.mark.parametrize("topology", ["v5e:2x2", "v4:2x2x2"])
def test_scoring_sends_nothing_but_its_results(topology):
    """Encoding, inversion and scoring are each device's own; the scores end on all of them."""
    row, _, _ = compiled(trace_detector, topology)
    sent = sum(traffic["bytes"] for traffic in row["collectives"].values())
    h, w, _ = row["latent"]
    grids, terms, n = 16 * h * w * 4, 16 * len(TERMS) * 4, row["devices"]
    # The terms are gathered, or summed with zeros of the others, which sends them twice. There is
    # one component: nothing is said of it. The latents would be 40 times the grids.
    assert (grids + terms) * (n - 1) / n <= sent <= (grids + 2 * terms) * (n - 1) / n


def test_gradients_are_summed_in_float32_under_bfloat16():
    row, _, _ = compiled(trace_train_step, "v5e:2x2", "denoiser.dtype=bfloat16")
    assert row["collectives"]["all-reduce"]["dtypes"] == ("f32",)


def test_estimates_are_within_the_chip():
    row, _, _ = compiled(trace_train_step, "v5e:2x2", "mesh.fsdp=-1")
    estimate = estimates.estimate(row | {"chip": row["chip"]._asdict()})
    assert estimate["fits"]
    assert 0 < max(estimate["seconds"].values()) < 1e-3  # half a million parameters


def test_slices_send_each_other_their_parts_of_the_gradient():
    """Within a slice parameters are gathered; between two, each device sends what it keeps."""
    row, size, positions = compiled(trace_train_step, "2*v5e:2x2", "mesh.fsdp=-1")
    between = row["collectives"][BETWEEN_SLICES]
    assert between["dtypes"] == ("f32",)
    assert (size - positions) / 4 <= between["bytes"] <= size - positions
