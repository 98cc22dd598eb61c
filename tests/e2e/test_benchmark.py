"""The benchmark as a command: its files, its comparison with an earlier run, what it refuses."""

import copy
import json
from unittest import mock

import jax
import pytest
from PIL import Image

from invad_jax.benchmarks import machine, session, whole

SHORT = ("--seconds", "0.001", "--repeats", "1", "--batch", "1", "8", "--images", "9")


@pytest.fixture(scope="module", autouse=True)
def kept_programs():
    """Are kept again afterwards: the benchmark turns that off in its process."""
    before = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", before)


@pytest.fixture(scope="module")
def measured(commands, trained):
    """On the devices of this process, of matrices and maps whose size shows nothing."""
    trace = ("--trace", str(commands.folder / "trace"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(machine.SIDE, "cpu", 64)
        patch.setitem(machine.STREAMED, "cpu", 2**16)
        patch.setattr(whole, "METRIC_MAPS", 4)
        commands.here("benchmark", "--workdir", "run", *SHORT, *trace)
    return json.loads((trained / "benchmark" / "benchmark.json").read_text())


def test_it_writes_every_part(commands, measured, trained):
    found = {(row["part"], row["batch"]) for row in measured["parts"]}
    names = ("encoder", "denoiser", "comparison", "detector")
    assert found == {(name, batch) for name in names for batch in (1, 8)} | {("train step", 8)}
    for row in measured["parts"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["gflop"] > 0
        assert row["compile_s"] > 0
    assert measured["machine"]["device"]["count"] == jax.device_count() > 1  # a mesh
    assert measured["predict"]["images"] == 9
    assert measured["predict"]["busy_share"] > 0
    assert measured["predict"]["processor_share"] > 0
    assert measured["rates"]["matrix_product"] > 0
    assert measured["training"]["steps"] >= 10
    assert measured["training"]["share_of_processor"] > 0
    early, most = measured["predict"]["memory_mb"]
    assert 0 < early <= most
    text = (trained / "benchmark" / "benchmark.md").read_text()
    assert text.count("| detector |") == 2
    assert "Loop of `train`" in text
    with Image.open(trained / "benchmark" / "benchmark.png") as plot:
        assert plot.width > 2 * plot.height
    assert list((commands.folder / "trace").rglob("*.xplane.pb"))


def test_an_earlier_run_that_was_faster_is_status_1(commands, measured, tmp_path):
    earlier, before = tmp_path / "earlier.json", copy.deepcopy(measured)
    for row in before["parts"]:
        row["p50_ms"] *= 1e-3 if row["part"] == "encoder" else 1e3
        row["spread"] = 0.0
    earlier.write_text(json.dumps(before))
    arguments = ("--out", "again", "--against", str(earlier), "--tolerance", "10")
    with mock.patch.object(session, "measure", return_value=measured):
        done = commands.here("benchmark", "--workdir", "run", *SHORT, *arguments, status=1)
    again = json.loads((commands.folder / "again" / "benchmark.json").read_text())
    assert again == measured
    slower = [line for line in done.stderr.splitlines() if line.startswith("slower")]
    assert len(slower) == 2  # the encoder, at both sizes
    assert all("encoder" in line for line in slower)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--against", "absent.json"), "absent.json"),
        (("--against", "run/config.json"), "no benchmark.json"),
        (("--batch", "0"), "--batch"),
        (("--seconds", "0"), "--seconds"),
    ],
)
def test_what_is_wrong_is_one_line(commands, trained, arguments, message):
    assert message in commands.refused("benchmark", "--workdir", "run", *arguments)
