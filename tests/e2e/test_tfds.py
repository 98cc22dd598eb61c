"""Training and evaluation from records: what they give from the folder, to the last bit."""

import json
import shutil

import pytest

from tests.commands import read_csv, training


@pytest.fixture(scope="module")
def from_records(commands, trained):
    """The options that read the procedural set, as `trained` did, from records."""
    commands.here("build_dataset", "--layout", "procedural", "--out", "records")
    return "data.name=tfds", f"data.root={commands.folder / 'records'}"


@pytest.fixture(scope="module")
def expected(commands, trained):
    """What `eval` gives from the folder."""
    commands.here("eval", "--workdir", "run", "--no-speed", "--out", "from_folder")
    return results(commands.folder / "from_folder")


def results(folder):
    """All metrics, and the scores of all images without the beginning of their paths."""
    rows = [
        row | {"path": row["path"].rpartition("/test/")[2]}
        for row in read_csv(folder / "scores.csv")
    ]
    assert len(rows) == 50
    return json.loads((folder / "metrics.json").read_text())["fusion"], rows


def test_a_trained_model_is_evaluated_from_either(commands, from_records, expected):
    out = ("--out", "from_records")
    commands.here("eval", "--workdir", "run", "--no-speed", *out, "--set", *from_records)
    assert results(commands.folder / "from_records") == expected


def test_a_model_trained_from_records_is_the_same(commands, from_records, expected):
    shards = sorted((commands.folder / "cache" / "latents").rglob("*.array_record"))
    written = [shard.stat().st_mtime_ns for shard in shards]
    commands.here(*training("of_records", *from_records))
    # The cache is found by the content of the images, so no image had to be encoded again.
    assert sorted((commands.folder / "cache" / "latents").rglob("*.array_record")) == shards
    assert [shard.stat().st_mtime_ns for shard in shards] == written
    commands.here("eval", "--workdir", "of_records", "--no-speed", "--save-maps")
    out = commands.folder / "of_records" / "eval"
    assert results(out) == expected
    maps = {path.relative_to(out / "maps").as_posix() for path in out.rglob("*.npy")}
    assert len(maps) == 50
    assert "disc/chip/000.npy" in maps


def test_training_goes_on_from_the_other(commands, trained, from_records):
    """The checkpoint remembers what the images were, not where they lay."""
    shutil.copytree(trained, commands.folder / "moved")
    done = commands.here(*training("moved", *from_records))
    assert "resumed at step 12" in done.stderr


def test_damaged_records_are_left_out_and_named(commands, from_records):
    records = commands.folder / "records"
    (shard,) = records.glob("*test.array_record*")
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    try:
        done = commands.here(
            "eval", "--workdir", "run", "--no-speed", "--out", "damaged", "--set", *from_records,
            status=1,
        )  # fmt: skip
    finally:
        shard.write_bytes(content)
    assert "test images that cannot be read, left out: " in done.stderr
    lost = json.loads((commands.folder / "damaged" / "metrics.json").read_text())["unreadable"]
    assert lost
    assert all(path.startswith(f"{records}/test.array_record/") for path in lost)


def test_what_is_no_prepared_data_set_is_refused(commands, tmp_path):
    line = commands.refused(*training("never", "data.name=tfds", f"data.root={tmp_path}"))
    assert line.startswith(f"error: data.root={tmp_path}: not a prepared data set")
    assert not (commands.folder / "never").exists()
