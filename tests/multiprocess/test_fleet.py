"""`predict` on two processes that are killed: what is done stays, and the table is that of one."""

import json
import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from tests.commands import process_ids, read_csv

IMAGES = 800


@pytest.fixture(scope="module")
def photos(commands):
    """A folder with two subfolders, one of whose images is none."""
    folder, rng = commands.folder / "new_parts", np.random.default_rng(0)
    for i in range(IMAGES):
        path = folder / f"camera_{i % 2}" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    (folder / "camera_1" / "broken.png").write_bytes(b"no image")
    return folder


def test_a_kill_costs_a_shard_a_process_and_the_same_command_goes_on(commands, trained, photos):
    predict = ("predict", "--workdir", str(trained), "--input", str(photos))
    commands.run(*predict, "--out", "one", "--no-overlays", status=1)
    job = commands.start(*predict, "--out", "two", "--no-overlays", processes=2)
    shards = commands.folder / "two" / "shards"
    while not (shards / "job.json").is_file() and job.poll() is None:
        time.sleep(0.01)
    processes = process_ids(job)  # which takes a moment
    while len(list(shards.glob("*.csv"))) < 4 and job.poll() is None:
        time.sleep(0.01)
    for process in processes:
        os.kill(process, signal.SIGKILL)
    job.communicate(timeout=120)
    assert job.returncode == 128 + signal.SIGKILL
    done = sorted(shards.glob("*.csv"))
    begun = json.loads((shards / "job.json").read_text())
    count = -(-begun["images"] // begun["size"])
    assert begun["images"] == IMAGES + 1
    assert 4 <= len(done) < count
    assert len(list(shards.glob(".*.csv.*"))) <= 2  # what each was at
    for p in (0, 1):  # each does its own in order: of the others nothing was begun
        numbers = [int(path.stem) for path in done if int(path.stem) % 2 == p]
        assert numbers == list(range(count)[p::2])[: len(numbers)]

    for path in done:  # another would be here if it were done again
        path.write_text(path.read_text().replace(",normal,", ",kept,").replace("anomalous", "kept"))
    again = commands.run(*predict, "--out", "two", "--no-overlays", processes=2)
    assert f"{count} shards, {len(done)} of them done before" in again.stderr
    rows = {out: read_csv(commands.folder / out / "predictions.csv") for out in ("one", "two")}
    kept = [int(path.stem) for path in done]
    for i, (one, two) in enumerate(zip(rows["one"], rows["two"], strict=True)):
        if i // begun["size"] in kept and one["decision"] != "unreadable":
            assert two["decision"] == "kept"
            two = two | {"decision": one["decision"]}
        assert one == two  # devices of one kind, batches of one size: the same programs
    summary = json.loads((commands.folder / "two" / "summary.json").read_text())
    assert summary["images"] == IMAGES + 1
    assert summary["count"]["unreadable"] == 1
    assert summary["errors"] == [[f"{photos}/camera_1/broken.png", rows["one"][-1]["error"]]]
    assert not shards.exists()
    assert again.stderr.count("Traceback") == 0
