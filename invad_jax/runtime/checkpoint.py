"""Checkpoints: orbax behind a few functions.

One step holds `model` (what evaluation needs), `optimizer` (what only training needs), `data` (the
position of the input iterator) and `meta` (config and versions, JSON). Orbax commits a step by a
rename, so one that is found is whole.

A step is sealed (`seals.py`) just before the rename. The first process compares before anything is
restored, and all take the newest step that is sound.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointSave
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from invad_jax.errors import UnavailableError, UserError
from invad_jax.io import answers, files
from invad_jax.io.paths import is_remote, to_path
from invad_jax.runtime import buckets, seals
from invad_jax.runtime.log import log

ITEMS = ("model", "optimizer", "data", "meta")
MODEL_ITEMS = ("model", "meta")
_NONE, _DAMAGED = -1, -2
"""In place of a step: there is none; none of them is sound."""


def newest_meta(directory: Path) -> dict[str, Any] | None:
    """The `meta` of the newest step, as it lies there: neither compared nor agreed upon.

    Args:
      directory: of checkpoints.

    Returns:
      None where no step has one that can be read.
    """
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    for step in sorted((int(name) for name in names if name.isdigit()), reverse=True):
        path = directory / str(step) / "meta" / "metadata"
        with suppress(UserError):
            meta: dict[str, Any] = files.read_json(path)
            return meta
    return None


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, directory: str | Path, keep: int = 1, read_only: bool = False):
        """Opens a folder.

        Args:
          directory: created when missing, unless `read_only`.
          keep: newest steps that are kept.
          read_only: never write, delete or create anything; only the model's parts are looked at.

        Raises:
          UserError: it cannot be created or written.
        """
        self.directory = to_path(directory).absolute()
        self._items = MODEL_ITEMS if read_only else ITEMS
        self._sound_step: int | None = None
        self._saving = 0
        self._broken = False
        with self._writing():
            self._manager = ocp.CheckpointManager(
                self.directory,
                item_names=ITEMS,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=checkpoint_managers.LatestN(keep),
                    save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                    create=not read_only,
                    read_only=read_only,
                    cleanup_tmp_directories=not read_only,
                    atomicity_options=buckets.commit_options(self.directory),
                    async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
                ),
            )

    def latest_step(self) -> int | None:
        """The newest sound step, the same on every process; None where there are no steps.

        Raises:
          UserError: there are steps, and all are damaged.
        """
        if self._sound_step is None:
            # Each process lists for itself, while a training may write.
            steps = sorted(self._manager.all_steps(), reverse=True)
            chosen = self._choose(steps) if jax.process_index() == 0 else _NONE
            step = int(multihost_utils.broadcast_one_to_all(np.int32(chosen)))
            if step == _DAMAGED:
                raise UserError(
                    f"{self.directory}: every checkpoint is damaged "
                    f"({', '.join(map(str, steps))}); put a sound one there, or give another "
                    "--workdir"
                )
            self._sound_step = None if step == _NONE else step
        return self._sound_step

    def save(
        self,
        step: int,
        model: Any,
        optimizer: Any,
        iterator: grain.DatasetIterator,
        meta: dict[str, Any],
    ) -> None:
        """Starts writing a step in the background; arrays are copied before this returns.

        Args:
          step: its number.
          model: arrays that evaluation needs.
          optimizer: arrays that only training needs.
          iterator: its position is kept.
          meta: JSON.

        Raises:
          UserError: this step, or the one that was being written, did not reach the disk.
          UnavailableError: the same, and the store does not answer.
        """
        self._require_space((model, optimizer))
        self._save(
            step,
            model=ocp.args.StandardSave(model),
            optimizer=ocp.args.StandardSave(optimizer),
            data=CheckpointSave(iterator),
            meta=ocp.args.JsonSave(meta),
        )

    def save_model(self, step: int, model: dict[str, Any], meta: dict[str, Any]) -> None:
        """Writes a step for evaluation alone."""
        self._save(step, model=ocp.args.StandardSave(model), meta=ocp.args.JsonSave(meta))

    def restore(
        self, model: Any, optimizer: Any, iterator: grain.DatasetIterator
    ) -> tuple[Any, Any]:
        """Restores the newest sound step to go on from it.

        Steps that are newer, and therefore damaged, are deleted: training makes them again.

        Args:
          model: shapes, types and shardings, which may be others than those of the save.
          optimizer: the same.
          iterator: is moved to where it was; the number of processes may be another.
        """
        step = self._require_step()
        restored = self._restore(
            model=ocp.args.StandardRestore(model), optimizer=ocp.args.StandardRestore(optimizer)
        )
        iterator.set_state(self._data_position(step))
        for damaged in [s for s in self._manager.all_steps() if s > step]:
            self._manager.delete(damaged)
        return restored["model"], restored["optimizer"]

    def restore_model(self, abstract: Any) -> Any:
        """Restores what `save` was given as `model`, of the newest sound step."""
        return self._restore(model=ocp.args.StandardRestore(abstract))["model"]

    def meta(self) -> dict[str, Any]:
        """What `save` was given as `meta`, of the newest sound step."""
        return self._restore(meta=ocp.args.JsonRestore())["meta"]

    def wait(self) -> None:
        """Returns when everything that was saved is on disk.

        Raises:
          UserError: it did not get there.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then stops the background threads."""
        with self._writing():
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        # After a failed write, or where another process may be gone, waiting would take for ever.
        alone = jax.process_count() == 1
        if self._broken:
            return
        if kind is None:
            self.close()
        elif alone or issubclass(kind, UserError | UnavailableError):
            try:
                self.close()
            except (UserError, UnavailableError) as error:  # what came first is what is told
                log.warning("%s", error)

    def _save(self, step: int, **items: Any) -> None:
        with self._writing():
            self._manager.wait_until_finished()
            self._saving = step
            self._manager.save(step, args=ocp.args.Composite(**items))

    def _require_space(self, state: Any) -> None:
        """Says that a disk is full before orbax does, which takes it pages."""
        if is_remote(self.directory):
            return
        free = shutil.disk_usage(self.directory).free
        need = sum(leaf.nbytes for leaf in jax.tree.leaves(state))  # a little more than is written
        if free < need:
            raise UserError(
                f"{self.directory}: no space left for a checkpoint: needs {need / 1e6:.1f} MB, has "
                f"{free / 1e6:.1f} MB; the steps already there are kept"
            )

    def _restore(self, **items: Any) -> Any:
        step = self._require_step()
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax and tensorstore raise whatever they like
            folder, reason = self.directory / str(step), _reason(error)
            if answers.is_outage(error):
                raise UnavailableError(f"{folder}: cannot be read: {reason}") from error
            raise UserError(
                f"{folder}: cannot be restored, damaged or of another config: {reason}"
            ) from error

    def _data_position(self, step: int) -> dict[str, Any]:
        """The state that grain saved; any process's serves every one.

        Every process draws its rows of the same global batches, so all have the same position,
        however many they are. Grain itself only takes back the file of the same process of the
        same number of processes.
        """
        paths = sorted((self.directory / str(step) / "data").glob("process_*.json"))
        states = [files.read_json(path) for path in paths]
        if not states or any(state != states[0] for state in states):
            raise UserError(f"{self.directory / str(step)}: its processes disagree in their data")
        if len(states) != jax.process_count():
            log.info("data position of %d processes, now %d", len(states), jax.process_count())
        return states[0]

    def _choose(self, steps: list[int]) -> int:
        """The first sound step."""
        for step in steps:
            fault = seals.fault(self.directory / str(step), self._items)
            if fault is None:
                return step
            log.warning("%s: damaged (%s); left out", self.directory / str(step), fault)
        return _DAMAGED if steps else _NONE

    def _seal(self) -> None:
        """Called by orbax on the first process, when a step is whole but not yet committed."""
        for folder in self.directory.glob(f"{self._saving}*"):
            if folder.name.partition(".")[0] == str(self._saving):  # 8.orbax-checkpoint-tmp
                seals.seal(folder)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says in one line what keeps a step from the disk."""
        try:
            yield
        except jax.errors.JaxRuntimeError:  # another process is gone
            raise
        except Exception as error:  # orbax and tensorstore raise whatever they like
            self._broken = True
            kind = UnavailableError if answers.is_outage(error) else UserError
            raise kind(
                f"{self.directory}: cannot be written: {_reason(error)}; "
                "the steps already there are kept"
            ) from error

    def _require_step(self) -> int:
        step = self.latest_step()
        if step is None:
            raise UserError(f"{self.directory}: holds no checkpoint; train first")
        return step


def _reason(error: BaseException) -> str:
    """One line: what the operating system said, if that was it, or how the message begins."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    lines = str(error).partition(" [tensorstore_spec=")[0].strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:400]}" if lines else type(error).__name__


def abstract_like(state: Any, shardings: Any) -> Any:
    """Shapes, types and shardings of a state, to restore into."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings,
    )
