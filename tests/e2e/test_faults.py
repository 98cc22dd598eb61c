"""Disks, data and clocks that fail: one clear line, status 2 where it is the user's to mend, and
nothing lost. Processes that are killed: `test_kill_and_resume.py`, `tests/multiprocess`."""

import os
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from invad_jax.inference.predictor import load
from tests.commands import PROJECT, RAW, TINY_MLP, training, unfinished_copy

STEPS = ("train.num_steps=12", "train.checkpoint_every=4")
BEFORE, LAST = 8, 12  # the two newest checkpoints
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # of linux/prctl.h and linux/capability.h


@pytest.fixture(scope="module")
def finished(commands) -> Path:
    """A workdir that nothing disturbed."""
    commands.here(*arguments(commands.folder / "undisturbed"))
    return commands.folder / "undisturbed"


@pytest.fixture
def workdir(finished, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def unfinished(finished, tmp_path) -> Path:
    """The same as it was at the checkpoint before the last."""
    return unfinished_copy(finished, tmp_path / "run")


def arguments(workdir):
    return training(workdir, *STEPS, tiny=TINY_MLP)


def train_apart(commands, workdir, **circumstances):
    """In a process with as many devices as this one: to the same bits."""
    return commands.run(*arguments(workdir), devices=jax.device_count(), **circumstances)


def parameters(workdir):
    """Of the newest checkpoint that is sound, and its step."""
    model = load(workdir, RAW)
    return model.step, jax.device_get(model.network)


def assert_same_end(workdir, finished):
    (step, ours), (last, theirs) = parameters(workdir), parameters(finished)
    assert step == last == LAST
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def error_lines(done):
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def flip_a_bit(workdir, step):
    """In the middle of the largest file of the model: among its numbers."""
    files = (p for p in (workdir / "checkpoints" / str(step) / "model").rglob("*") if p.is_file())
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_training_goes_back_to_the_last_sound_checkpoint_and_says_so(commands, finished, workdir):
    flip_a_bit(workdir, LAST)
    done = commands.here(*arguments(workdir))
    assert f"checkpoints/{LAST}: damaged" in done.stderr
    assert f"resumed at step {BEFORE}" in done.stderr
    assert_same_end(workdir, finished)


def test_evaluation_takes_the_last_sound_checkpoint_and_says_so(workdir, caplog):
    flip_a_bit(workdir, LAST)
    assert parameters(workdir)[0] == BEFORE
    assert f"checkpoints/{LAST}: damaged" in caplog.text


@pytest.mark.parametrize("main", ["predict", "train"])
def test_where_all_checkpoints_are_damaged_one_line_says_so(commands, workdir, main):
    for step in (BEFORE, LAST):
        flip_a_bit(workdir, step)
    image = str(PROJECT / "docs" / "vae_unet.png")
    predict = ["predict", "--workdir", str(workdir), "--input", image, "--out", "no"]
    line = commands.refused(*(arguments(workdir) if main == "train" else predict))
    assert "every checkpoint is damaged (12, 8)" in line


def test_a_file_that_cannot_grow_loses_nothing(commands, finished, unfinished):
    """As with a quota: checkpoints do not reach the disk, smaller files do."""
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (8000, 8000))"  # bytes
    done = train_apart(commands, unfinished, status=2, limit=limit)
    assert "Traceback" not in done.stderr
    (line,) = error_lines(done)
    assert f"{unfinished.name}/checkpoints: cannot be written: File too large" in line
    assert parameters(unfinished)[0] == BEFORE
    commands.here(*arguments(unfinished))
    assert_same_end(unfinished, finished)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_said_in_one_line_and_loses_nothing(commands, unfinished, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(p.stat().st_size for p in unfinished.rglob("*") if p.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={2 * size + 500_000}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        workdir = shutil.copytree(unfinished, disk / "run")
        free = shutil.disk_usage(disk).free
        (disk / "other").write_bytes(bytes(free - 100_000))  # for logs and a config, no more
        done = train_apart(commands, workdir, status=2)
        assert "Traceback" not in done.stderr
        (line,) = error_lines(done)
        assert "no space left for a checkpoint: needs" in line
        assert line == done.stderr.splitlines()[-1]
        assert parameters(workdir)[0] == BEFORE
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_workdir_that_may_not_be_written_is_one_line(commands, finished, unfinished):
    # root may write anywhere unless it gives that up
    drop = f"prctl({PR_CAPBSET_DROP}, {CAP_DAC_OVERRIDE}, 0, 0, 0)"
    limit = f"import ctypes; ctypes.CDLL(None).{drop}"
    folders = [unfinished, *(p for p in unfinished.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        done = train_apart(commands, unfinished, status=2, limit=limit)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.stderr.splitlines()[-1] == (
        f"error: {unfinished / 'config.json'}: cannot be written: Permission denied"
    )
    assert parameters(unfinished)[0] == BEFORE


def test_other_images_under_a_resumed_run_are_refused(commands, unfinished, tmp_path, monkeypatch):
    """One pixel of one training image is another."""
    cache = shutil.copytree(commands.folder / "cache" / "samples", tmp_path / "samples").parent
    path = sorted(cache.rglob("disc/train/good/*.png"))[3]
    image = np.array(Image.open(path))
    image[0, 0] ^= 1
    Image.fromarray(image).save(path)
    before = {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()}
    environment = commands.environment | {"INVAD_CACHE": str(cache)}
    monkeypatch.setattr(commands, "environment", environment)
    line = commands.refused(*arguments(unfinished), "eval.batch_size=3")  # which may differ
    assert "its checkpoint was made with another dataset" in line
    assert before == {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()}
    assert parameters(unfinished)[0] == BEFORE


def test_nothing_depends_on_the_clock(commands, finished, unfinished, tmp_path):
    """Resumed with a clock that is years behind its own files and runs backwards."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\n"
        "_real, _start = time.time, time.time()\n"
        "time.time = lambda: _start - 1e8 - 1000 * (_real() - _start)\n"
        "time.time_ns = lambda: int(1e9 * time.time())\n"
    )
    for number, path in enumerate(sorted(unfinished.rglob("*"))):
        os.utime(path, (1e9 - number, 1e9 - number))  # older by name, not by age
    paths = f"{tmp_path}{os.pathsep}{commands.environment['PYTHONPATH']}"
    done = train_apart(commands, unfinished, environment={"PYTHONPATH": paths})
    assert f"resumed at step {BEFORE}" in done.stderr
    assert_same_end(unfinished, finished)
