"""What is timed and in which order; what two runs say of each other."""

import itertools
import time
from types import SimpleNamespace

import pytest

from invad_jax.benchmarks import report, session
from invad_jax.benchmarks.clock import FEWEST, interleaved, summary
from invad_jax.benchmarks.parts import Part
from invad_jax.errors import UserError
from invad_jax.runtime import processes

RATES = {"matrix_product": 2e11, "stream": 1e10}


def test_runs_take_turns_after_a_warm_up():
    order = []

    def run(name, seconds):
        def once():
            order.append(name)
            time.sleep(seconds)

        return once

    times = interleaved({"a": run("a", 0.01), "b": run("b", 0.0)}, seconds=0.0, repeats=2)
    assert order == ["a", "b"] + 2 * (FEWEST * ["a"] + FEWEST * ["b"])
    assert [len(some) for some in times["a"]] == [FEWEST, FEWEST]
    assert all(one >= 0.01 for some in times["a"] for one in some)


def test_a_first_run_that_is_slow_is_on_no_clock(monkeypatch):
    took, passed = itertools.chain([1000.0], itertools.repeat(0.25)), [0.0]

    def once():
        passed[0] += next(took)

    monkeypatch.setattr(processes, "time", SimpleNamespace(perf_counter=lambda: passed[0]))
    assert interleaved({"a": once}, seconds=0.0, repeats=1) == {"a": [[0.25] * FEWEST]}


def test_the_summary():
    found = summary([[0.010] * 9 + [0.020], [0.012] * 10])
    assert found["p50_ms"] == pytest.approx(12)
    assert found["p99_ms"] == pytest.approx(18.48)  # between the two slowest of 20
    assert found["spread"] == pytest.approx((12 - 10) / 12, abs=1e-3)
    assert found["runs"] == 20


def part(name="detector", batch=8, moved=None):
    return Part(name, batch, lambda: None, 1.5, 4_000_000_000, moved, 2_000_000)


def test_a_row_says_what_share_of_the_machine_is_used():
    row = report.row(part(moved=10**8), [[0.05] * 3], RATES)
    assert row["images_per_second"] == 160
    assert row["share_of_products"] == pytest.approx(4e9 / 0.05 / 2e11)
    assert row["share_of_bandwidth"] == pytest.approx(1e8 / 0.05 / 1e10)
    assert report.row(part(), [[0.05] * 3], RATES)["share_of_bandwidth"] is None


def run_of(milliseconds, spread=0.0, dtype="float32"):
    rows = [{"part": "detector", "batch": 8, "p50_ms": milliseconds, "spread": spread}]
    return {"schema": 1, "dtype": dtype, "parts": rows}


def test_slower_is_beyond_the_tolerance_and_the_spread():
    assert report.slower(run_of(100), run_of(114), 0.15) == []
    (line,) = report.slower(run_of(100), run_of(116), 0.15)
    assert "detector, batch 8" in line
    assert "1.16 times" in line
    assert report.slower(run_of(100, spread=0.2), run_of(130), 0.15) == []
    assert report.slower(run_of(100), run_of(50), 0.15) == []
    other = {
        "dtype": "float32",
        "parts": [{"part": "encoder", "batch": 8, "p50_ms": 1.0, "spread": 0.0}],
    }
    assert report.slower(other, run_of(100), 0.15) == []


def test_two_precisions_are_not_compared():
    with pytest.raises(UserError, match=r"bfloat16 there and float32 here.*dtype=bfloat16"):
        report.slower(run_of(100, dtype="bfloat16"), run_of(300), 0.15)


def test_a_part_that_fails_loses_no_other(caplog):
    def full():
        raise OSError(28, "No space left on device")

    assert session._without_loss("training", full) == {}
    assert "training is left out" in caplog.text
    assert session._without_loss("predict", dict) == {"predict": {}}


def test_ratios_are_of_the_same_part_and_batch():
    ours = [report.row(part(batch=b), [[t] * 3], RATES) for b, t in ((1, 0.01), (8, 0.04))]
    theirs = {
        "detector, batch 1": summary([[0.02] * 3]),
        "detector, batch 8": summary([[0.12] * 3]),
    }
    found = report.against_torch(ours, theirs, 1e-6)
    assert found["latency_batch1_ratio"] == 2
    assert found["throughput_ratio"] == 3
