"""Every other command that takes paths, all of them in a bucket: the same files as on a disk."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

import invad_jax
from invad_jax.errors import UserError
from invad_jax.io import files
from invad_jax.io.paths import to_path
from invad_jax.io.tensors import write_tensors
from tests import emulators
from tests.commands import CONFIG, TINY_MLP, training
from tests.e2e.test_convert import published_tensors

OPTIONS = ("data.name=mvtec", "train.num_steps=2", "train.checkpoint_every=2")
RUN = "swept/runs/seed=0"
"""The workdir, where a sweep looks for it."""


def draw(folder):
    """A small data set like MVTec AD."""
    rng = np.random.default_rng(0)
    good = [f"{split}/good/{i}" for split, n in (("train", 12), ("test", 6)) for i in range(n)]
    for name in (*good, "test/bad/0", "test/bad/1"):
        pixels = rng.integers(90, 110, (32, 32, 3), np.uint8)
        pixels[8:16, 8:16] += np.uint8(90 * ("bad" in name))
        save(folder / f"nut/{name}.png", pixels)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:16, 8:16] = 255
    for i in range(2):
        save(folder / f"nut/ground_truth/bad/{i}_mask.png", mask)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def all_commands(commands, root):
    """Every path that they are given lies below `root`."""
    run, new = f"{root}/{RUN}", f"{root}/data/nut/test"
    files.write_text(f"{root}/broken.png", "no image")
    names = [f"{new}/bad/1.png", f"{root}/broken.png", f"{new}/good/0.png"]
    files.write_text(f"{root}/list.txt", "\n".join(names) + "\n")
    listed = ("--list", f"{root}/list.txt", "--sort-into", f"{root}/sorted", "--no-overlays")
    commands.here("predict", "--workdir", run, *listed, "--out", f"{root}/listed", status=1)
    swept = ("--out", f"{root}/swept", "--over", "inversion.num_steps=1")
    given = ("--set", *TINY_MLP, *OPTIONS, f"data.root={root}/data")
    commands.here("sweep", "--config", CONFIG, *swept, *given)
    commands.here("export", "--workdir", run, "--out", f"{root}/part.invad")
    line = ("--normal", f"{new}/good", "--out", f"{root}/line.invad")
    commands.here("calibrate", "--model", f"{root}/part.invad", *line)
    decided = ("--input", new, "--out", f"{root}/by_line")
    commands.here("predict", "--model", f"{root}/line.invad", *decided)
    same = [f"{root}/by_line/predictions.csv"] * 2
    commands.here("compare", *same, "--out", f"{root}/compared")
    commands.here(
        *("build_dataset", "--layout", "mvtec"),
        *("--root", f"{root}/data", "--out", f"{root}/records"),
    )
    foreign = ("--input", f"{root}/published", "--workdir", f"{root}/converted")
    commands.here("convert", "--from", "invad-pytorch", *foreign)
    back = ("--workdir", f"{root}/converted", "--output", f"{root}/back")
    commands.here("convert", "--to", "invad-pytorch", *back)


@pytest.fixture(scope="module")
def here(commands):
    root = commands.folder / "all_commands"
    draw(root / "data")
    commands.here(*training(root / RUN, *OPTIONS, f"data.root={root}/data", tiny=TINY_MLP))
    (root / "published").mkdir()
    write_tensors(root / "published" / "model_latest.pth", published_tensors(0))
    all_commands(commands, root)
    return root


@pytest.fixture(scope="module")
def both(commands, here, tmp_path_factory):
    """The roots of the same on this machine and in a bucket, the cache included."""
    # As deep as here: `compare` says by how many parts of their paths images were paired.
    there = to_path(f"gs://{emulators.BUCKET}/{str(here).split('/', 3)[3]}")
    cache = {"INVAD_CACHE": f"{there}/cache", "HOME": str(tmp_path_factory.mktemp("home"))}
    with emulators.used("gs") as environment, pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "environment", commands.environment | environment | cache)
        for name, value in cache.items():
            patch.setenv(name, value)
        for name in ("data", "published"):
            files.upload_folder(here / name, there / name)
        commands.here(*training(there / RUN, *OPTIONS, f"data.root={there}/data", tiny=TINY_MLP))
        all_commands(commands, there)
        yield here, there


def contents(root, name):
    """The files by their names; in text, paths without the root."""
    place = to_path(root / name)
    found = {}
    for path in [place] if place.is_file() else place.rglob("*"):
        if path.is_file():
            content = files.read_bytes(path)
            if path.suffix not in (".png", ".pth", ".array_record"):
                content = content.replace(str(root).encode(), b"")
            found[str(path).removeprefix(str(root))] = content
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("listed", "sorted", "by_line", "compared", "records", "back"),
        *("swept/sweep.csv", "swept/sweep.md", "swept/sweep.png", "converted/config.json"),
    ],
)
def test_a_bucket_gets_the_same_bytes(both, name):
    expected, found = (contents(root, name) for root in both)
    assert found.keys() == expected.keys() != set()
    assert [one for one in expected if found[one] != expected[one]] == []


def parts(bundle):
    """Without what says when it was made, by what root, and what this process traced before."""
    with zipfile.ZipFile(io.BytesIO(files.read_bytes(bundle))) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    normals = json.loads(content.pop("normals.json"))
    del normals["key"]["made_of"], content["model.json"], content["detector.stablehlo"]
    return content | normals


@pytest.mark.parametrize("name", ["part.invad", "line.invad"])
def test_a_bundle_in_a_bucket_has_the_same_parts(both, name):
    one, other = (parts(root / name) for root in both)
    assert one == other


@pytest.mark.parametrize("name", [RUN, "part.invad"])
def test_python_loads_and_reads_from_a_bucket(both, name):
    expected, found = (
        invad_jax.load(str(root / name)).predict(str(root / "data" / "nut" / "test"))
        for root in both
    )
    np.testing.assert_array_equal(found.image_score, expected.image_score)
    np.testing.assert_array_equal(found.latent_norm, expected.latent_norm)
    assert set(expected.decision) == {False, True}


def test_what_is_there_is_not_written_over(commands, both):
    there = both[1]
    given = ("--input", f"{there}/published", "--workdir", f"{there}/{RUN}")
    said = commands.refused("convert", "--from", "invad-pytorch", *given)
    assert f"{there}/{RUN}: exists already, whole or in part; give a new" in said
    with pytest.raises(UserError, match=r"/none.invad: not a workdir"):
        invad_jax.load(f"{there}/none.invad")
    said = commands.refused("export", "--validate", f"{there}/none.invad")
    assert said == f"error: {there}/none.invad: cannot be read: No such file or directory"


def test_a_bucket_has_no_links(commands, both):
    there = both[1]
    given = ("--workdir", f"{there}/{RUN}", "--input", f"{there}/data", "--out", f"{there}/x")
    said = commands.refused("predict", *given, "--sort-into", f"{there}/y", "--sort-by", "link")
    assert said == f"error: --sort-into {there}/y: a bucket has no links; --sort-by copy"


def test_the_doctor_looks_into_a_cache_in_a_bucket(commands, both):
    assert f"cache: {both[1]}/cache" in commands.here("doctor").stdout
