"""Checkpoints on a damaged disk: the newest sound step is taken, and never a wrong number."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invad_jax.data.pipeline import latent_batches
from invad_jax.errors import UnavailableError, UserError
from invad_jax.io import files
from invad_jax.runtime import checkpoint
from invad_jax.runtime.checkpoint import Checkpoints, abstract_like
from invad_jax.training.step import create_state

TX = optax.adam(0.1)


def state_at(step):
    """Every array says which step it is of."""
    params = {"kernel": jnp.full((40, 40), 1.0 + step), "bias": jnp.arange(3.0) + step}
    state = create_state(params, {"mean": jnp.full(4, step)}, jax.random.key(0), TX)
    return state.replace(step=jnp.int32(step))


def batches():
    return latent_batches(np.arange(40, dtype=np.float32).reshape(10, 2, 2, 1), 0, 4)


def abstract():
    state = state_at(0)
    like = abstract_like(state, jax.tree.map(lambda leaf: leaf.sharding, state))
    return like.model(), like.optimizer()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the steps 4 and 8, each after as many batches."""
    folder = tmp_path_factory.mktemp("written") / "checkpoints"
    iterator = batches()
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (4, 8):
            for _ in range(4):
                next(iterator)
            state = state_at(step)
            checkpoints.save(step, state.model(), state.optimizer(), iterator, {"of": step})
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy to damage."""
    return shutil.copytree(written, tmp_path / "checkpoints")


def all_files(step_folder):
    return sorted(p for p in step_folder.rglob("*") if p.is_file() and p.parent != step_folder)


def restored_step(folder):
    """The step that training would go on from; everything restored is of this step."""
    iterator = batches()
    with Checkpoints(folder, keep=2) as checkpoints:
        model, optimizer = checkpoints.restore(*abstract(), iterator)
        step = int(optimizer["step"])
        jax.tree.map(np.testing.assert_array_equal, model["params"], state_at(step).params)
        assert checkpoints.meta() == {"of": step}
    unbroken = batches()
    for _ in range(step):
        next(unbroken)
    np.testing.assert_array_equal(next(iterator)["latent"], next(unbroken)["latent"])
    return step


def test_a_sound_folder_gives_its_newest_step(folder):
    assert restored_step(folder) == 8


def test_the_seal_covers_every_part_and_almost_every_file(folder):
    seal = json.loads((folder / "8" / "seal.json").read_text())
    assert set(seal) == {"model", "optimizer", "data", "meta"}
    sealed = {f"{part}/{name}" for part, names in seal.items() for name in names}
    there = {p.relative_to(folder / "8").as_posix() for p in all_files(folder / "8")}
    assert {p for p in there - sealed if not p.endswith("commit_success.txt")} == set()


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_to_any_file_is_noticed(folder, damage, caplog):
    """One file after the other; a look at the seal is all it takes, nothing is restored."""
    rng = np.random.default_rng(0)
    names = [p for p in all_files(folder / "8") if p.name != "commit_success.txt"]
    assert len(names) > 10
    for path in names:
        content = path.read_bytes()
        if damage == "delete":
            path.unlink()
        elif damage == "truncate":
            path.write_bytes(content[: len(content) // 2])
        else:
            changed = bytearray(content)
            changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
            path.write_bytes(changed)
        with Checkpoints(folder, keep=2) as checkpoints:
            assert checkpoints.latest_step() == 4, path
        assert path.name in caplog.text
        path.write_bytes(content)


def test_after_damage_training_goes_on_from_the_step_before_and_makes_it_again(folder):
    largest = max(all_files(folder / "8"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-7])
    assert restored_step(folder) == 4
    assert not (folder / "8").exists()
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(8, state_at(8).model(), state_at(8).optimizer(), batches(), {"of": 8})
    assert (folder / "8" / "seal.json").is_file()


def test_an_evaluation_does_without_the_optimizer_but_not_without_the_model(folder):
    shutil.rmtree(folder / "8" / "optimizer")
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 8
    (folder / "8" / "model" / "_METADATA").unlink()
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 4
        assert checkpoints.meta() == {"of": 4}
    assert (folder / "8").exists()  # a reader deletes nothing


def test_where_all_is_damaged_one_line_says_so_and_nothing_is_deleted(folder):
    for step in ("4", "8"):
        (folder / step / "model" / "manifest.ocdbt").write_bytes(b"")
    with (
        Checkpoints(folder, keep=2) as checkpoints,
        pytest.raises(UserError, match=r"every checkpoint is damaged \(8, 4\)"),
    ):
        checkpoints.restore(*abstract(), batches())
    assert (folder / "4").is_dir()
    assert (folder / "8").is_dir()


def test_steps_without_a_seal_are_taken_as_they_are(folder):
    for step in ("4", "8"):
        (folder / step / "seal.json").unlink()
    assert restored_step(folder) == 8


@pytest.mark.parametrize("seal", [b"", b"[]", b'{"model": 3}', b"\xff"])
def test_a_damaged_seal_is_damage(folder, seal):
    (folder / "8" / "seal.json").write_bytes(seal)
    assert restored_step(folder) == 4


def test_a_disk_without_room_is_refused_before_writing(folder, monkeypatch):
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with Checkpoints(folder, keep=2) as checkpoints:
        with pytest.raises(UserError, match=r"no space left for a checkpoint: needs .* MB"):
            checkpoints.save(12, state_at(12).model(), state_at(12).optimizer(), batches(), {})
        assert checkpoints.latest_step() == 8


def test_the_position_of_other_processes_is_taken_over_if_they_agree(folder):
    """As a job of two processes leaves it: each draws its half of the same batches."""
    (own,) = (folder / "8" / "data").glob("process_*.json")
    for index in (0, 1):
        shutil.copy(own, own.with_name(f"process_{index}-of-2.json"))
    own.unlink()
    (folder / "8" / "seal.json").unlink()
    assert restored_step(folder) == 8
    other = json.loads((folder / "8" / "data" / "process_1-of-2.json").read_text())
    other["next_index"] += 1
    (folder / "8" / "data" / "process_1-of-2.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="disagree"):
        restored_step(folder)


def test_every_process_takes_the_step_that_the_first_has_chosen(folder, monkeypatch):
    """A training goes on beside an evaluation: the others may list other steps."""
    monkeypatch.setattr(checkpoint.jax, "process_index", lambda: 1)
    told = []

    def broadcast(value):
        told.append(int(value))
        return np.int32(8)

    monkeypatch.setattr(checkpoint.multihost_utils, "broadcast_one_to_all", broadcast)
    with Checkpoints(folder, read_only=True) as checkpoints:
        checkpoints._manager.all_steps = lambda: [12, 16]
        assert checkpoints.latest_step() == 8
    assert len(told) == 1


def away(*_, **__):
    raise UnavailableError("gs://b/x: does not answer")


def save_and(then, checkpoints):
    checkpoints.save_model(4, {"x": jnp.zeros(2)}, {})
    then()


def test_a_store_that_goes_away_while_a_step_is_written_is_no_fault_of_the_user(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "digests", away)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UnavailableError, match=r"cannot be written: .*does not answer"),
    ):
        save_and(checkpoints.wait, checkpoints)


def test_what_fails_while_leaving_does_not_hide_why(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(files, "digests", away)

    def first():
        raise UserError("first")

    def leave():
        with Checkpoints(tmp_path) as checkpoints:
            save_and(first, checkpoints)

    with pytest.raises(UserError, match=r"^first$"):
        leave()
    assert "does not answer" in caplog.text


@pytest.mark.parametrize("kind", [UserError, UnavailableError])
def test_several_processes_end_what_is_being_written(tmp_path, monkeypatch, kind):
    closed = []
    with Checkpoints(tmp_path) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(checkpoint.jax, "process_count", lambda: 2)
        patch.setattr(checkpoints, "close", lambda: closed.append(kind))
        checkpoints.__exit__(kind, kind("x"), None)
        checkpoints.__exit__(ValueError, ValueError("x"), None)  # of which others know nothing
    assert closed == [kind]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("ABORTED: Error reading gs://b/x: All 32 retry attempts failed: CURL"), "away"),
        (ValueError("DATA_LOSS: Error reading gs://b/x"), "damaged"),
    ],
)
def test_a_store_that_is_away_is_no_damage(folder, monkeypatch, error, kind):
    def fail(*_, **__):
        raise RuntimeError("of orbax") from error

    with Checkpoints(folder, keep=2) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", fail)
        expected = UnavailableError if kind == "away" else UserError
        with pytest.raises(expected, match=r"8: cannot be re(ad|stored)"):
            checkpoints.meta()
