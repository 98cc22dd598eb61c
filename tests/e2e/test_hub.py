"""To a hub and back: the same decisions, no paths, nothing that could be run."""

import json
import shutil
import sys

import numpy as np
import pytest

from invad_jax.inference.predictor import load
from tests.hub import hub as served

pytest.importorskip("huggingface_hub", reason="the extra [hub] is not installed")


@pytest.fixture(scope="module")
def hub():
    with served() as held:
        yield held


@pytest.fixture(autouse=True)
def known(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture(scope="module")
def photographs(commands, white):
    root = next((commands.folder / "cache" / "samples").glob("procedural-*"))
    return [str(path) for path in sorted(root.glob("*/test/*/*.png"))[::5]]


def test_a_workdir_decides_as_before_wherever_it_is_pulled(
    commands, hub, white, photographs, tmp_path
):
    commands.here("push", "--model", str(white), "--repo", "me/white")
    held = hub.files["me/white"]
    assert hub.private["me/white"]
    assert {"README.md", "config.json", "coordinates.npz"} <= held.keys()
    assert not any("optimizer" in path or path.startswith("eval") for path in held)
    assert not [name for name in held if str(commands.folder).encode() in held[name]]
    card = held["README.md"].decode()
    for said in ("license: ", "i_auroc", "invad_jax.eval --workdir white", "false alarms"):
        assert said in card
    out = tmp_path / "runs" / "white"
    said = commands.here("pull", "--repo", "me/white", "--out", str(out)).stdout
    assert f"--model {out}" in said
    assert not list(out.rglob(".cache"))
    ours, theirs = (load(path).predict(photographs) for path in (out, white))
    np.testing.assert_array_equal(ours.image_score, theirs.image_score)
    np.testing.assert_array_equal(ours.threshold, theirs.threshold)


def test_a_bundle_comes_back_as_it_was(commands, hub, part, tmp_path):
    commands.here("push", "--model", str(part), "--repo", "me/part", "--public")
    assert not hub.private["me/part"]
    hub.files["me/part"] |= {"evil.pkl": b"cos\nsystem", "code.py": b"", "normals/x.bin": b""}
    out = tmp_path / "part"
    commands.here("pull", "--repo", "me/part", "--out", str(out))
    assert sorted(path.name for path in out.rglob("*")) == ["README.md", part.name]
    assert (out / part.name).read_bytes() == part.read_bytes()
    commands.here("push", "--model", str(part), "--repo", "me/part")  # once more
    said = commands.refused("pull", "--repo", "me/part", "--out", str(out))
    assert "exists already" in said


def test_a_bundle_in_a_workdir_stays_there(commands, hub, white, part, tmp_path):
    """It has photographs, and is another detector."""
    workdir = shutil.copytree(white, tmp_path / "white")
    shutil.copy(part, workdir / "old.invad")
    commands.here("push", "--model", str(workdir), "--repo", "me/both")
    assert not [name for name in hub.files["me/both"] if name.endswith(".invad")]
    hub.files["me/both"]["old.invad"] = part.read_bytes()
    out = tmp_path / "out"
    said = commands.here("pull", "--repo", "me/both", "--out", str(out)).stdout
    assert f"--model {out} " in said


def test_files_of_this_machine_do_not_go_into_bundles_of_what_was_pulled(
    commands, hub, white, photographs, tmp_path
):
    """Whatever paths the one who pushed it wrote."""
    commands.here("push", "--model", str(white), "--repo", "me/paths")
    held = hub.files["me/paths"]
    (scores,) = [name for name in held if name.endswith("scores.json")]
    content = json.loads(held[scores])
    content["path"] = [photographs[0]] * len(content["path"])
    held[scores] = json.dumps(content).encode()
    aside = f"{scores.rpartition('/')[0]}/of_training/scores.json"
    held[aside] = held[scores]
    config = json.loads(held["config.json"])
    config["data"]["root"] = "/"
    held["config.json"] = json.dumps(config).encode()
    out, bundle = tmp_path / "out", tmp_path / "a.invad"
    commands.here("pull", "--repo", "me/paths", "--out", str(out))
    commands.here("export", "--workdir", str(out), "--out", str(bundle))
    assert len(load(bundle).model.pictures.image) == 1  # of noise
    assert str(photographs[0]) not in (out / aside).read_text()
    held["config.json"] = b"[3]"
    said = commands.refused("pull", "--repo", "me/paths", "--out", str(tmp_path / "other"))
    assert "config.json: not what a workdir holds" in said


def test_what_goes_wrong_is_one_line(commands, hub, part, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert "give --model" in commands.refused("push", "--model", str(part))
    assert "me/none" in commands.refused("pull", "--repo", "me/none", "--out", str(out))
    hub.files["me/empty"], hub.private["me/empty"] = {"README.md": b""}, False
    said = commands.refused("pull", "--repo", "me/empty", "--out", str(out))
    assert "holds no detector of invad_jax" in said
    assert not out.exists()
    assert "a/b/c" in commands.refused("push", "--model", str(part), "--repo", "a/b/c")
    said = commands.refused("push", "--model", str(tmp_path), "--repo", "me/x")
    assert "not a workdir" in said
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "401" in commands.refused("push", "--model", str(part), "--repo", "me/x")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    said = commands.refused("push", "--model", str(part), "--repo", "me/x")
    assert "Without a way to the hub, carry the file" in said
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    said = commands.refused("push", "--model", str(part), "--repo", "me/x")
    assert 'pip install "invad-jax[hub]"' in said
