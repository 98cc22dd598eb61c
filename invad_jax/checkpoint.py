"""Checkpoints: orbax behind a few functions.

One step holds `model` (what evaluation needs), `optimizer` (what only training needs), `data` (the
position of the input iterator) and `meta` (config and versions, JSON). Orbax commits a step by a
rename, so one that is found is whole.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointRestore, CheckpointSave
from orbax.checkpoint import checkpoint_managers

from invad_jax.errors import UserError
from invad_jax.train_step import TrainState

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs several lines a save


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, directory: str | Path, keep: int = 1, read_only: bool = False):
        """Opens a folder.

        Args:
          directory: created when missing, unless `read_only`.
          keep: newest steps that are kept.
          read_only: never write, delete or create anything.
        """
        self.directory = Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_names=("model", "optimizer", "data", "meta"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.LatestN(keep),
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )

    def latest_step(self) -> int | None:
        """The newest whole step, or None."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: TrainState, iterator: grain.DatasetIterator, meta: dict[str, Any]
    ) -> None:
        """Starts writing a step in the background; arrays are copied before this returns."""
        model, optimizer = _split(state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(model),
                optimizer=ocp.args.StandardSave(optimizer),
                data=CheckpointSave(iterator),
                meta=ocp.args.JsonSave(meta),
            ),
        )

    def save_model(self, step: int, model: dict[str, Any], meta: dict[str, Any]) -> None:
        """Writes a step for evaluation alone; `model` holds `params`, `ema_params`, `frozen`."""
        args = ocp.args.Composite(model=ocp.args.StandardSave(model), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=args)

    def restore(self, abstract: TrainState, iterator: grain.DatasetIterator) -> TrainState:
        """Restores the newest step, with the shardings of `abstract`; moves `iterator` in place."""
        model, optimizer = _split(abstract)
        restored = self._manager.restore(
            self._require_step(),
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(model),
                optimizer=ocp.args.StandardRestore(optimizer),
                data=CheckpointRestore(iterator),
            ),
        )
        return TrainState(**restored["model"], **restored["optimizer"])

    def restore_model(self, abstract: dict[str, Any]) -> dict[str, Any]:
        """Restores `params`, `ema_params` and `frozen` of the newest step."""
        restored = self._manager.restore(
            self._require_step(),
            args=ocp.args.Composite(model=ocp.args.StandardRestore(abstract)),
        )
        return restored["model"]

    def meta(self) -> dict[str, Any]:
        """What `save` was given as `meta`, of the newest step."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(self._require_step(), args=args)["meta"]

    def wait(self) -> None:
        """Returns when everything that was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then stops the background threads."""
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _require_step(self) -> int:
        step = self.latest_step()
        if step is None:
            raise UserError(f"{self.directory}: holds no checkpoint; train first")
        return step


def _split(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    model = {"params": state.params, "ema_params": state.ema_params, "frozen": state.frozen}
    optimizer = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
    return model, optimizer


def abstract_like(state: Any, shardings: Any) -> Any:
    """Shapes, types and shardings of a state, to restore into."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings,
    )
