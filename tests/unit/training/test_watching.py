"""What training says of itself while it runs: rates, waiting for input, a trace."""

import itertools
import logging

import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax import train
from invad_jax.config import MeshConfig, TrainConfig
from invad_jax.data import pipeline
from invad_jax.detector import LatentStats
from invad_jax.runtime.sharding import make_mesh
from invad_jax.runtime.workdir import Workdir
from invad_jax.training import loop, watching
from invad_jax.training.watching import Watch
from tests.losses import diffusion_loss
from tests.unit.training.test_step import ALPHA_BAR, denoise


class Clock:
    """Seconds that a test turns on."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(watching, "time", clock)
    return clock


class Step:
    """One that was done at a time, or is not."""

    def __init__(self, at):
        self.at = at

    def done(self):
        return self.at is not None

    def result(self):
        return self.at


@pytest.mark.parametrize(
    ("done", "waited"),
    [(None, 0.0), (1.0, 3.0), (6.5, 0.5), (4.0, 3.0)],
    ids=["still running", "before", "meanwhile", "just then"],
)
def test_a_device_waits_while_a_batch_is_fetched_and_it_has_nothing_to_do(clock, done, waited):
    watch = Watch(10, batch_size=8)
    watch._done = Step(done)
    clock.now = 4.0
    with watch.fetching():
        clock.now = 7.0
    clock.now = 10.0
    values = watch.look(15)
    assert values["steps_per_second"] == pytest.approx(0.5)
    assert values["images_per_second"] == pytest.approx(4)
    assert values["input_wait"] == pytest.approx(waited / 10)
    clock.now = 12.0  # from the last look on
    assert watch.look(16) == {
        "steps_per_second": 0.5, "images_per_second": 4.0, "input_wait": 0.0,
    }  # fmt: skip
    watch.close()


def test_when_a_step_is_done_is_seen_by_a_thread():
    watch = Watch(0, 1)
    watch.dispatched(jnp.zeros(3) + 1)
    done = watch._done.result(timeout=60)
    with watch.fetching():
        pass
    assert watch.look(1)["input_wait"] > 0  # the whole of fetching: the step was done before
    assert done > 0
    watch.close()


def test_the_memory_of_devices_is_said_where_they_count_it(clock, monkeypatch):
    def device(**stats):
        return type("Device", (), {"memory_stats": lambda self: stats or None})()

    devices = [device(), device(peak_bytes_in_use=3e9), device(peak_bytes_in_use=2e9)]
    monkeypatch.setattr(watching.jax, "local_devices", lambda: devices)
    watch = Watch(0, 1)
    clock.now = 1.0
    assert watch.look(1)["device_memory_peak_gb"] == 3.0
    watch.close()


def test_a_line_now_and_then_and_one_at_the_end(clock, caplog):
    watch = Watch(0, batch_size=2)
    values = {"loss": 0.5, "grad_norm": 9.0}
    with caplog.at_level(logging.INFO, "invad_jax"):
        for step in range(1, 26):
            clock.now = float(step)
            watch.say(step, values | watch.look(step), last=step == 25)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in lines] == ["step 10", "step 20", "step 25"]
    assert lines[-1] == (
        "step 25: loss 0.5000, 1 steps/s, 2 images/s, 0.0% of the time waiting for input"
    )
    watch.close()


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """Trains a gain for seven steps; what was written to TensorBoard, by name."""
    seen = {}

    def write(_, step, scalars):
        for name, value in scalars.items():
            seen.setdefault(name, []).append((step, value))

    monkeypatch.setattr(loop.ScalarWriter, "write", write)

    def run(profile):
        latents = np.random.default_rng(0).standard_normal((16, 2, 2, 3), dtype=np.float32)
        cfg = TrainConfig(num_steps=7, warmup_steps=1, batch_size=4, checkpoint_every=3)
        loop.fit(
            cfg=cfg,
            init_params=lambda _: {"gain": jnp.zeros(10)},
            frozen=LatentStats(jnp.zeros(3), jnp.ones(3)),
            loss_fn=diffusion_loss(denoise, ALPHA_BAR),
            iterator=pipeline.latent_batches(latents, 0, 4),
            mesh=make_mesh(MeshConfig(), devices=watching.jax.devices()[:1]),
            workdir=Workdir(tmp_path),
            meta={},
            profile=profile,
        )
        return seen

    return run


def test_curves_have_rates_and_a_trace_lies_below_the_workdir(fitted, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "invad_jax"):
        curves = fitted(profile=2)
    assert [step for step, _ in curves["loss"]] == [3, 6, 7]
    for name in ("steps_per_second", "images_per_second"):
        assert all(value > 0 for _, value in curves[name])
    for (_, steps), (_, images) in zip(
        curves["steps_per_second"], curves["images_per_second"], strict=True
    ):
        assert images == pytest.approx(4 * steps)
    assert all(0 <= value <= 1 for _, value in curves["input_wait"])
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert b"step_on_mesh" in trace.read_bytes()
    assert f"xprof --logdir {tmp_path / 'profile'}" in caplog.text
    assert "step 7: loss " in caplog.text


def test_a_training_that_is_over_says_that_nothing_was_traced(fitted, tmp_path, caplog):
    fitted(profile=0)
    assert not (tmp_path / "profile").exists()
    fitted(profile=2)
    assert "no step was left to trace" in caplog.text
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("steps", ["0", "-3"])
def test_a_number_of_steps_to_trace_is_asked_for(steps, capsys):
    assert train.cli(["--config", "c.py", "--profile", steps]) == 2
    assert "give a number of steps" in capsys.readouterr().err


def test_steps_are_counted_from_the_second_one_on(monkeypatch, tmp_path):
    """The first one compiles."""
    calls = []
    profiler = watching.jax.profiler
    monkeypatch.setattr(profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(profiler, "stop_trace", lambda: calls.append("stop"))
    tracer = watching.Profile(tmp_path / "profile", 2)
    for step, scalars in enumerate(itertools.chain([None], itertools.repeat(jnp.zeros(1), 4))):
        tracer.before(scalars)
        calls.append(step)
    tracer.stop(jnp.zeros(1))
    assert calls == [0, "start", 1, 2, "stop", 3, 4]
