"""Counting: by hand, by XLA, and the command on fake devices."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from invad_jax import plan
from invad_jax.benchmarks import subject
from invad_jax.config import Config, DenoiserConfig, EncoderConfig, MeshConfig
from invad_jax.data import masks, preprocess
from invad_jax.encoders import describe_encoder
from invad_jax.errors import UserError
from invad_jax.planning import estimate, programs, topologies
from invad_jax.planning.flops import count_flops
from invad_jax.planning.hlo import BETWEEN_SLICES, Program
from invad_jax.planning.tpus import CHIPS
from invad_jax.runtime.sharding import make_mesh
from tests.commands import PROJECT
from tests.products import dot_flops

pytestmark = pytest.mark.usefixtures("optimised")

# Four devices. A loop of 5 rounds holds an all-reduce; one of bound 8 and step 2 a permutation; an
# all-gather is spread over two fusions, as a TPU's compiler does.
PROGRAM = """HloModule example, is_scheduled=true

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%begin (p0: f32[4]) -> f32[16] {
  %p0 = f32[4]{0:T(128)} parameter(0)
  ROOT %all-gather.1 = f32[16]{0:T(128)} all-gather(%p0), channel_id=3, replica_groups={{0,1,2,3}}, dimensions={0}
}

%end (p1: f32[4]) -> f32[16] {
  %p1 = f32[4]{0:T(128)} parameter(0)
  ROOT %all-gather.2 = f32[16]{0:T(128)} all-gather(%p1), channel_id=3, replica_groups={{0,1,2,3}}, dimensions={0}
}

%slice (stack: f32[5,8,8], i: s32[]) -> f32[1,8,8] {
  %stack = f32[5,8,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %ds = f32[1,8,8]{2,1,0} dynamic-slice(%stack, %i, %zero, %zero), dynamic_slice_sizes={1,8,8}
}

%body (state: (s32[], f32[8,8], f32[5,8,8])) -> (s32[], f32[8,8], f32[5,8,8]) {
  %state = (s32[], f32[8,8]{1,0}, f32[5,8,8]{2,1,0}) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %x = f32[8,8]{1,0} get-tuple-element(%state), index=1
  %w = f32[5,8,8]{2,1,0} get-tuple-element(%state), index=2
  %layer = f32[1,8,8]{2,1,0} fusion(%w, %n), kind=kLoop, calls=%slice
  %matrix = f32[8,8]{1,0} bitcast(%layer)
  %dot.1 = f32[8,8]{1,0} dot(%x, %matrix), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %all-reduce.1 = f32[8,8]{1,0} all-reduce(%dot.1), channel_id=1, replica_groups=[2,2]<=[4], to_apply=%add.1
  %one = s32[] constant(1)
  %next = s32[] add(%n, %one)
  ROOT %out = (s32[], f32[8,8]{1,0}, f32[5,8,8]{2,1,0}) tuple(%next, %all-reduce.1, %w)
}

%condition (state.1: (s32[], f32[8,8], f32[5,8,8])) -> pred[] {
  %state.1 = (s32[], /*index=1*/f32[8,8]{1,0}, f32[5,8,8]{2,1,0}) parameter(0)
  %n.1 = s32[] get-tuple-element(%state.1), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%n.1, %five), direction=LT
}

%window (state.2: (u32[], bf16[6])) -> (u32[], bf16[6]) {
  %state.2 = (u32[], bf16[6]{0}) parameter(0)
  %k = u32[] get-tuple-element(%state.2), index=0
  %y = bf16[6]{0} get-tuple-element(%state.2), index=1
  %collective-permute-start.1 = (bf16[6]{0}, bf16[6]{0}) collective-permute-start(%y), channel_id=2, source_target_pairs={{0,1},{1,0}}
  %collective-permute-done.1 = bf16[6]{0} collective-permute-done(%collective-permute-start.1)
  %two = u32[] constant(2)
  %k2 = u32[] add(%k, %two)
  ROOT %out.2 = (u32[], bf16[6]{0}) tuple(%k2, %collective-permute-done.1)
}

%bound (state.3: (u32[], bf16[6])) -> pred[] {
  %state.3 = (u32[], bf16[6]{0}) parameter(0)
  %k.1 = u32[] get-tuple-element(%state.3), index=0
  %eight = u32[] constant(8)
  ROOT %less.1 = pred[] compare(%k.1, %eight), direction=LT
}

ENTRY %main (arg: f32[4], init: (s32[], f32[8,8], f32[5,8,8]), ring: (u32[], bf16[6])) -> f32[16] {
  %arg = f32[4]{0} parameter(0)
  %init = (s32[], f32[8,8]{1,0}, f32[5,8,8]{2,1,0}) parameter(1)
  %ring = (u32[], bf16[6]{0}) parameter(2)
  %while.1 = (s32[], f32[8,8]{1,0}, f32[5,8,8]{2,1,0}) while(%init), condition=%condition, body=%body
  %while.2 = (u32[], bf16[6]{0}) while(%ring), condition=%bound, body=%window
  %start = f32[16]{0} fusion(%arg), kind=kLoop, calls=%begin
  ROOT %stop = f32[16]{0} fusion(%arg), kind=kLoop, calls=%end
}
"""  # noqa: E501, a program as XLA prints it


def test_collectives_by_hand():
    found = Program(PROGRAM).collectives()
    assert found == {
        "all-gather": (1, 4 * 4 * 3, ("f32",)),  # each device's 4 floats pass 3 links
        "all-reduce": (5, 5 * 256 * 2 * 1 // 2, ("f32",)),  # groups of 2: twice half the array
        "collective-permute": (4, 4 * 12, ("bf16",)),
    }


def test_what_goes_to_other_slices_by_hand():
    """As XLA prints it: a part of a sum within the slice, handed to the network."""
    transfer = """HloModule two_slices

ENTRY %main (x: f32[2,8]) -> f32[2,8] {
  %x = f32[2,8] parameter(0)
  %token = token[] after-all()
  %send = (f32[2,8], u32[], token[]) send(%x, %token), channel_id=1, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  %other = (f32[2,8], u32[], token[]) send(%x, %token), channel_id=2, is_host_transfer=true
  ROOT %y = f32[2,8] copy(%x)
}
"""
    assert Program(transfer).collectives() == {BETWEEN_SLICES: (1, 64, ("f32",))}


def test_products_by_hand():
    assert dot_flops(Program(PROGRAM)) == 5 * 2 * 8 * 8 * 8


def test_memory_traffic_by_hand():
    """A fusion that reads one layer of a stack is charged for that layer."""
    layer, dot, reduce, add = 256 + 4 + 256, 3 * 256, 2 * 256, 3 * 4
    permute, window = 12, 3 * 4
    gathers = 2 * (16 + 64)
    assert Program(PROGRAM).memory_bytes() == (
        5 * (layer + dot + reduce + add) + 4 * (permute + window) + gathers
    )


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="how often"):
        Program(PROGRAM.replace("constant(5)", "bitcast(%n.1)"))


def dit_step_flops(cfg, batch, tokens, channels, remat):
    """Counted by hand: a product of n inputs and m outputs is 2 n m a row, and its gradient twice
    that, once for the inputs and once for the weights. (The first layers' inputs need no gradient;
    it is traced, and left out by the compiler.)"""
    D = cfg.width
    per_token = 2 * (4 * D * D + 2 * 4 * D * D)
    attention = 2 * 2 * tokens * D  # scores and their use
    blocks = cfg.depth * batch * (tokens * (per_token + attention) + 2 * D * 6 * D)
    ends = batch * (tokens * 2 * 2 * channels * D + 2 * 256 * D + 2 * D * D + 2 * D * 2 * D)
    return (4 if remat else 3) * blocks + 3 * ends


@pytest.mark.parametrize("remat", [False, True])
def test_flops_of_a_training_step(remat):
    """`count_flops` sees loops and recomputation."""
    denoiser = DenoiserConfig(width=16, depth=3, num_heads=2, remat=remat)
    config, encoder = tiny(denoiser)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    batch = config.train.batch_size
    h, w, C = encoder.latent_shape
    expected = dit_step_flops(denoiser, batch, h * w, C, remat)
    counted = count_flops(programs.trace_train_step(config, encoder, mesh).jaxpr)
    assert counted == expected


def test_flops_agree_with_xla_where_there_is_no_loop():
    def f(x, w, k):
        return jnp.sum(jax.lax.conv(x, k, (1, 1), "VALID")) + jnp.sum(jnp.tanh(w @ w))

    args = jnp.ones((2, 3, 8, 8)), jnp.ones((32, 32)), jnp.ones((5, 3, 3, 3))
    counted = count_flops(jax.make_jaxpr(f)(*args))
    by_xla = jax.jit(f).lower(*args).cost_analysis()["flops"]
    # XLA also counts the sums: one for each of the (2, 5, 6, 6) + (32, 32) values, and two ends.
    assert abs(by_xla - counted - 360 - 1024) <= 4


def test_a_loop_counts_as_often_as_it_runs():
    def f(x):
        return jax.lax.fori_loop(0, 7, lambda _, y: y @ x, x)

    assert count_flops(jax.make_jaxpr(f)(jnp.ones((4, 4)))) == 7 * 2 * 4**3


def tiny(denoiser):
    config = Config(encoder=EncoderConfig(pool=2), denoiser=denoiser)
    config = config.__class__(**{
        **vars(config),
        "data": config.data.__class__(image_size=64),
        "train": config.train.__class__(batch_size=8),
    })  # fmt: skip
    return config, describe_encoder(config.encoder, config.data.image_size)[1]


def test_the_planned_detector_is_the_one_that_scores(tmp_path):
    """Images as they are read, in their region, and no maps."""
    Image.fromarray(np.eye(64, dtype=bool)).save(tmp_path / "region.png")
    config, _ = tiny(DenoiserConfig(width=16, depth=1, num_heads=2))
    data = replace(config.data, aspect="letterbox", region=str(tmp_path / "region.png"))
    config, mesh = replace(config, data=data), make_mesh(config.mesh, jax.devices()[:1])
    region = masks.read_region(data)
    _, encoder = describe_encoder(config.encoder, data.image_size, region=region)
    planned = programs.trace_detector(config, encoder, mesh)
    assert planned.out_info.anomaly_map is None
    benchmarked = subject.of_config(config, mesh)
    images = preprocess.blank(programs.detector_batch(config, encoder, mesh), data)
    predict = jax.jit(benchmarked.detector.predict_without_maps)
    assert str(planned.jaxpr) == str(predict.trace(benchmarked.variables, images).jaxpr)
    latent_norm = predict(benchmarked.variables, images).latent_norm
    h, w, _ = encoder.latent_shape
    np.testing.assert_array_equal(np.isfinite(latent_norm[0]), np.eye(h, w, dtype=bool))


SMALL = (
    "data.image_size=64", "encoder.name=efficientnet_lite0", "encoder.stages=0,2", "encoder.pool=8",
    "denoiser.width=16", "denoiser.depth=2", "denoiser.num_heads=2", "train.batch_size=8",
    "eval.batch_size=8",
)  # fmt: skip


def test_the_command_on_fake_devices(tmp_path, capsys):
    path = tmp_path / "plan.json"
    status = plan.cli([
        "--config", "configs/hazelnut.py", "--topology", "cpu:1", "--topology", "cpu:4",
        "--only", "train", "--json", str(path), "--set", *SMALL, "mesh.fsdp=-1",
    ])  # fmt: skip
    assert status == 0
    one, four = json.loads(path.read_text())
    assert one["collectives"] == {}
    assert four["collectives"]["all-gather"]["bytes"] > 0
    assert four["flops"] == one["flops"] / 4
    # Of parameters, average and two moments a device keeps a quarter, and the vectors.
    assert one["arguments"] / 4 < four["arguments"] < one["arguments"] / 2
    table = capsys.readouterr().out
    assert "| cpu:4 | 1 x 4 x 1 | train step | 8 |" in table


def test_as_many_cpus_as_are_asked_for():
    """Of a process that nobody told how many it has."""
    command = [
        *(sys.executable, "-m", "invad_jax.plan", "--config", "configs/hazelnut.py"),
        *("--topology", "cpu:9", "--set", "train.batch_size=4"),
    ]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=PROJECT)
    assert done.returncode == 2
    assert "train.batch_size=4: must be a multiple of the 9 devices" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology", "v9:4x4"], "expected v4, v5e"),
        (["--topology", "v5e"], "shape"),
        (["--topology", "1*v5e:4x4"], "a number of slices, such as 2*v5e:4x4"),
        (["--topology", "2*cpu:4"], "expected v4, v5e"),
        (["--topology", "cpu:999"], "cpu:1 to cpu:"),
        ([], "--topology"),
        (["--topology", "cpu:8", "--set", "train.batch_size=4"], "mesh.tensor"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert plan.cli(["--config", "configs/hazelnut.py", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_the_compiler_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    assert plan.cli(["--config", "configs/hazelnut.py", "--topology", "v5e:4x4"]) == 2
    assert "pip install libtpu" in capsys.readouterr().err


@dataclass(frozen=True)
class Sliced:
    """A device as far as the mesh looks at it."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "tpu"


def ids_of_mesh(monkeypatch, cfg, devices):
    def made(found, *_, **__):
        return SimpleNamespace(devices=found)

    monkeypatch.setattr("invad_jax.runtime.sharding.Mesh", made)
    found = make_mesh(cfg, devices).devices
    return [[[one.id for one in row] for row in rows] for rows in found.tolist()]


def test_slices_are_rows_of_the_mesh(monkeypatch):
    """Whatever the order in which the devices come."""
    devices = [Sliced(i, slice_index=i % 2) for i in range(8)]
    found = ids_of_mesh(monkeypatch, MeshConfig(fsdp=-1), devices)
    assert found == [[[0], [2], [4], [6]], [[1], [3], [5], [7]]]
    with pytest.raises(UserError, match="must divide the 4 devices"):
        make_mesh(MeshConfig(fsdp=8), devices)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_the_devices_of_a_process_follow_each_other(monkeypatch, platform):
    """So that it feeds consecutive rows. Of GPUs the slice is the host, and splits nothing."""
    devices = [
        Sliced(i, (i // 4) if platform == "gpu" else 0, process_index=p, platform=platform)
        for i, p in enumerate([0, 0, 1, 1, 1, 1, 0, 0])
    ]
    found = ids_of_mesh(monkeypatch, MeshConfig(fsdp=-1), devices)
    assert found == [[[0], [1], [6], [7], [2], [3], [4], [5]]]


def test_an_estimate_is_its_slowest_part():
    chip = CHIPS["v5e"]
    row = {
        "devices": 4, "flops_all_devices": 4 * 197e12, "bytes": 17 * 2**30, "arguments": 1,
        "memory_traffic": 819e9 / 2, "chip": chip._asdict(),
        "collectives": {"all-gather": {"bytes": 50e9}, BETWEEN_SLICES: {"bytes": 9e9}},
    }  # fmt: skip
    result = estimate.estimate(row)
    assert result["seconds"] == {"compute": 1.0, "memory": 0.5, "links": 0.25}
    assert result["fits"] is False
