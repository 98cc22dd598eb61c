"""The files of a fleet's work: the list of images, shards that are whole or absent, one table."""

import pickle
from collections import Counter

import numpy as np
import pytest

from invad_jax.errors import UnavailableError, UserError
from invad_jax.evaluation import fleet, shards
from invad_jax.evaluation.shards import LARGEST, SMALLEST, Paths
from invad_jax.io.paths import to_path
from invad_jax.runtime import locks
from tests import emulators
from tests.emulators import Faults

KEY = {"model": "m", "format": "csv"}


@pytest.fixture
def photos(tmp_path):
    """70 files that look like images, and a link that leads nowhere."""
    for i in range(70):
        path = tmp_path / "photos" / f"{i % 3}" / f"{i:02}\n\udcff.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "photos" / "link.png").symlink_to("nowhere")
    return tmp_path / "photos"


@pytest.fixture
def job(tmp_path, photos):
    return shards.begin(tmp_path / "shards", KEY, [str(photos)])


@pytest.fixture
def job_in_a_bucket(photos):
    with emulators.used("gs"):
        yield shards.begin(to_path(f"gs://{emulators.BUCKET}/shards"), KEY, [str(photos)])


def test_images_are_listed_once_and_read_back_one_by_one(job, photos):
    assert (job.images, job.size, job.count) == (71, SMALLEST, 5)
    names = sorted(path.relative_to(photos) for path in photos.rglob("*.png"))
    assert [job.found(row).name for row in range(71)] == [str(name) for name in names]
    assert job.found(70).reason == "a link that leads nowhere"
    np.testing.assert_array_equal(job.readable(np.arange(60, 71)), np.arange(10))
    assert [job.rows(k).start for k in range(5)] == [0, 16, 32, 48, 64]
    assert list(job.rows(4)) == [64, 65, 66, 67, 68, 69, 70]


def test_paths_are_read_when_they_are_asked_for_also_elsewhere(job, photos):
    paths = pickle.loads(pickle.dumps(Paths(job, np.array([3, 69]))))
    assert len(pickle.dumps(paths)) < 500  # no list of them
    assert list(paths) == [job.found(3).path, job.found(69).path]
    assert list(paths[1:]) == [job.found(69).path]


def test_what_is_given_twice_is_taken_once_where_it_comes_first(tmp_path, photos):
    given = [str(photos / "link.png"), str(photos / "0"), f"{photos}/1/../0", str(photos)]
    job = shards.begin(tmp_path / "shards", KEY, given)
    found = [job.found(row).path for row in range(job.images)]
    assert found[:2] == [given[0], str(photos / "0" / "00\n\udcff.png")]
    assert len(found) == 71


@pytest.mark.parametrize(("images", "size"), [(1, SMALLEST), (10_000, 40), (200_000, LARGEST)])
def test_shards_are_few_of_few_images_and_never_large(tmp_path, monkeypatch, images, size):
    monkeypatch.setattr(shards, "_list", lambda *_: images)
    assert shards.begin(tmp_path, KEY, []).size == size


def test_a_job_goes_on_with_its_list_and_only_as_the_same(job, photos):
    (photos / "later.png").write_bytes(b"x")
    again = shards.begin(job.folder, KEY, ["is not asked"])
    assert again.images == 71
    with pytest.raises(UserError, match=r"other work \(model was m, now other\)"):
        shards.begin(job.folder, {**KEY, "model": "other"}, [str(photos)])


def test_nothing_to_score_begins_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds no image; left out: 1 no image \(\.txt\)"):
        shards.begin(tmp_path / "shards", KEY, [str(tmp_path / "empty")])
    assert not shards.is_begun(tmp_path / "shards")


def row(i, decision="normal", error=""):
    score = None if decision == "unreadable" else float(i % 7)
    return {
        "path": str(i), "image_score": score, "decision": decision, "component": "nut",
        "error": error,
    }  # fmt: skip


def test_a_shard_that_is_broken_off_is_not_there(job):
    def broken_off():
        with job.writing(2) as (temporary, _):
            temporary.write_text("path\n1\n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert not job.finished()
    assert not list(job.folder.glob(".*.csv.*"))


@pytest.mark.parametrize("where", ["job", "job_in_a_bucket"])
def test_the_table_and_the_tally_of_all_do_not_depend_on_who_came_first(where, tmp_path, request):
    job = pickle.loads(pickle.dumps(request.getfixturevalue(where)))
    assert job.found(70).reason == "a link that leads nowhere"
    for shard in (3, 0, 4, 2, 1):
        assert shard not in job.finished()
        with job.writing(shard) as (temporary, tally):
            for i in job.rows(shard):
                tally.add(row(i, "unreadable", "why") if i % 30 == 0 else row(i))
            temporary.write_text("path\n" + "".join(f"{i}\n" for i in job.rows(shard)))
    job.wait()
    tally = job.merge(tmp_path / "all.csv")
    assert (tmp_path / "all.csv").read_text().split() == ["path", *map(str, range(71))]
    assert tally.count == Counter(normal=68, unreadable=3, error=3)
    assert tally.components == {"nut": Counter(normal=68)}
    assert tally.errors == [("0", "why"), ("30", "why"), ("60", "why")]
    ranked = sorted((i for i in range(71) if i % 30), key=lambda i: -(i % 7))[:20]
    assert tally.highest == [(float(i % 7), str(i)) for i in ranked]
    job.remove()
    assert not job.folder.exists()
    assert not shards.is_begun(job.folder)


def test_clearing_up_a_bucket_leaves_the_lock_to_its_holder(job_in_a_bucket):
    job = job_in_a_bucket
    with locks.alone(job.folder, "busy"):
        job.remove()
        (left,) = job.folder.iterdir()
        assert left.name.startswith(locks.LOCK)
    assert not job.folder.exists()


def test_what_cannot_be_cleared_up_is_a_warning(job, monkeypatch, caplog):
    def away(self):
        raise UnavailableError("gs://bucket: away")

    monkeypatch.setattr(shards.Shards, "remove", away)
    fleet._tidy(job)
    assert "not deleted; the results are whole" in caplog.text


def test_requests_do_not_grow_with_the_shards_that_are_done(photos, tmp_path):
    """A look is one listing, whoever has done what, and an object is read once."""
    faults = Faults(0)
    with emulators.used("gs", faults):
        job = shards.begin(to_path(f"gs://{emulators.BUCKET}/counted"), KEY, [str(photos)])
        faults.asked.clear()
        for shard in range(job.count):
            assert job.finished() == set(range(shard))
            with job.writing(shard) as (temporary, _):
                temporary.write_text("path\n")
        job.wait()
        job.merge(tmp_path / "all.csv")
    # By object, over all: a request for the size of one may come after the call that made it.
    listings = [request for request in faults.asked if "prefix=counted/&" in request]
    assert len(listings) == job.count + 1  # the looks and the wait
    downloads = [request for request in faults.asked if request.endswith("alt=media")]
    assert len(downloads) == len(set(downloads)) == 2 * job.count  # a table and its tally
    uploads = [request for request in faults.asked if request.startswith("POST")]
    assert len(uploads) == 2 * job.count
    # Each that is written is asked for its size; gcsfs asks up to three times at once.
    others = len(faults.asked) - len(listings) - len(downloads) - len(uploads)
    assert others <= 3 * 2 * job.count
