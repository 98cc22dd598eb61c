"""The training loop: restore, then save, fetch, step, and nothing else.

The order matters. A step is saved before the next batch is fetched, so a checkpoint holds exactly
what the following steps need; a run that is killed anywhere and started again ends with the
parameters of the unbroken run, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from invad_jax.config import Config, TrainConfig
from invad_jax.data.dataset import Sample, fingerprint
from invad_jax.errors import UserError
from invad_jax.runtime import processes
from invad_jax.runtime.checkpoint import Checkpoints, abstract_like, newest_meta
from invad_jax.runtime.log import log
from invad_jax.runtime.sharding import (
    global_batch,
    replicated,
    state_sharding,
    train_batch_sharding,
)
from invad_jax.runtime.stop_signal import StopSignal
from invad_jax.runtime.workdir import Workdir
from invad_jax.training.held_out import HeldOut
from invad_jax.training.scalars import ScalarWriter
from invad_jax.training.step import LossFn, TrainState, create_state, make_optimizer, train_step
from invad_jax.training.watching import Profile, Watch

TIMED = 10
"""Steps after which it is said how long the rest takes."""
LOG_EVERY = 50
"""Steps between two points in TensorBoard, and lines in the log; a checkpoint has one too."""


class Trained(NamedTuple):
    """What a training step is made of."""

    cfg: TrainConfig
    init_params: Callable[[jax.Array], Any]
    """key -> parameters."""
    frozen: Any
    """Arrays that `loss_fn` reads and training keeps, or their shapes and types."""
    loss_fn: LossFn


class Programs(NamedTuple):
    """What is compiled of it for a mesh."""

    create: Callable[[jax.Array, Any], TrainState]
    """(key, `Trained.frozen`) -> the first state."""
    abstract: TrainState
    """Shapes, types and shardings of a state."""
    step: Any
    """(state, which is donated; batch) -> the next state, and scalars."""


def programs(trained: Trained, mesh: Mesh) -> Programs:
    """Traces the first state of a training, and nothing else yet."""
    tx = make_optimizer(trained.cfg)

    def create(rng: jax.Array, frozen: Any) -> TrainState:
        init_rng, run_rng = jax.random.split(rng)
        return create_state(trained.init_params(init_rng), frozen, run_rng, tx)

    state = jax.eval_shape(create, jax.random.key(0), trained.frozen)
    shardings = state_sharding(state, mesh)
    return Programs(
        jax.jit(create, out_shardings=shardings),
        abstract_like(state, shardings),
        compile_step(trained.cfg, trained.loss_fn, tx, mesh, shardings),
    )


class Fitted(NamedTuple):
    """How far training came."""

    state: TrainState
    stopped: bool
    """Asked to stop (preemption): everything is saved, and the same command continues."""


def fit(
    *,
    cfg: TrainConfig,
    init_params: Callable[[jax.Array], Any],
    frozen: Any,
    loss_fn: LossFn,
    iterator: grain.DatasetIterator,
    mesh: Mesh,
    workdir: Workdir,
    meta: dict[str, Any],
    draw: Callable[[Any], dict[str, np.ndarray]] | None = None,
    held_out: HeldOut | None = None,
    profile: int = 0,
) -> Fitted:
    """Trains to `cfg.num_steps`, from the newest sound checkpoint of the workdir if there is one.

    Args:
      cfg: the optimisation.
      init_params: key -> parameters.
      frozen: arrays that `loss_fn` reads and training keeps.
      loss_fn: see `step.LossFn`.
      iterator: endless batches of this process's share; its position is saved and restored.
      mesh: devices.
      workdir: checkpoints and logs go there.
      meta: JSON kept in every checkpoint; a workdir with other data or weights is refused.
      draw: averaged parameters -> pictures by name, (H, W, 3) uint8, shown with every checkpoint.
      held_out: its loss is logged with every checkpoint, and decides at the end whether the
        averaged parameters are worth keeping.
      profile: steps that are traced, below the workdir.

    Returns:
      The last state, on disk too, and whether it was asked to stop before the last step.

    Raises:
      UserError: the loss became non-finite, the workdir was made from other data, or it cannot be
        written.
    """
    create, ours, step_fn = programs(Trained(cfg, init_params, frozen, loss_fn), mesh)
    with (
        Checkpoints(workdir.checkpoints, keep=2) as checkpoints,
        StopSignal() as stop,
    ):
        fresh = checkpoints.latest_step() is None
        if fresh:
            state = create(jax.random.key(cfg.seed), frozen)
        else:
            _check_same_inputs(checkpoints.meta(), meta, workdir)
            model, optimizer = checkpoints.restore(ours.model(), ours.optimizer(), iterator)
            state = TrainState(**model, **optimizer)
            log.info("resumed at step %d", int(state.step))
        writer = ScalarWriter(workdir.logs, int(state.step))
        save = partial(
            _save, checkpoints, writer, iterator=iterator, meta=meta, draw=draw, held_out=held_out
        )
        if fresh and cfg.num_steps == 0:
            save(state, None)
        accept = held_out.accept if held_out else lambda state: state
        tracer = Profile(workdir.path / "profile", profile)
        return run(state, step_fn, iterator, mesh, cfg, save, writer, stop, accept, tracer)


def compile_step(
    cfg: TrainConfig, loss_fn: LossFn, tx: optax.GradientTransformation, mesh: Mesh, shardings: Any
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """`train_step` over the mesh, its state donated."""

    def step_on_mesh(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # for `split_over` in networks
            return train_step(
                state,
                batch,
                loss_fn=loss_fn,
                tx=tx,
                ema_decay=cfg.ema_decay,
                grad_accumulation=cfg.grad_accumulation,
            )

    return jax.jit(
        step_on_mesh,
        in_shardings=(shardings, train_batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def run(
    state: TrainState,
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    iterator: grain.DatasetIterator,
    mesh: Mesh,
    cfg: TrainConfig,
    save: Callable[[TrainState, dict[str, jax.Array] | None], None],
    writer: ScalarWriter,
    stop: StopSignal,
    accept: Callable[[TrainState], TrainState] = lambda state: state,
    tracer: Profile | None = None,
) -> Fitted:
    """From a state to the last step of `cfg`; closes the writer.

    Args:
      state: donated.
      step_fn: see `compile_step`.
      iterator: endless batches.
      mesh: devices.
      cfg: of the optimisation.
      save: keeps a state, whose step made these scalars.
      writer: of the logs.
      stop: asks to end early.
      accept: last state -> what of it is kept.
      tracer: of some steps.
    """
    first_step = int(state.step)
    bar = tqdm(
        total=cfg.num_steps,
        initial=first_step,
        desc="train",
        unit="step",
        mininterval=1.0,
        disable=not processes.is_primary(),
    )
    stopping, scalars, compiled_at = False, None, 0.0
    watch = Watch(first_step, cfg.batch_size)
    with bar, closing(watch), jax.transfer_guard("disallow"):
        for step in range(first_step, cfg.num_steps):
            stopping = stop.at(step)
            if step > first_step and (step % cfg.checkpoint_every == 0 or stopping):
                save(state, scalars)
            if stopping:
                log.info("stopping at step %d; the same command continues", step)
                break
            if tracer:
                tracer.before(scalars)
            # JAX takes a share of an array for implicit
            with watch.fetching(), jax.transfer_guard("allow"):
                batch = global_batch(next(iterator), mesh, train_batch_sharding(mesh))
            # compiling reads the constants of the step, such as its schedule
            with jax.transfer_guard("allow" if step == first_step else "disallow"):
                state, scalars = step_fn(state, batch)
            watch.dispatched(scalars)
            if step in (first_step, first_step + TIMED):
                jax.block_until_ready(scalars)
                if step == first_step:  # it is compiled now: from here on the clocks tell the time
                    compiled_at = time.perf_counter()
                    watch.restart(step + 1)
                    bar.unpause()
                else:
                    took = time.perf_counter() - compiled_at
                    left = (cfg.num_steps - step - 1) * took / TIMED
                    log.info("steps to go: %d, about %s", cfg.num_steps - step - 1, duration(left))
            bar.update()
            last = step + 1 == cfg.num_steps
            if last or (step + 1) % LOG_EVERY == 0 or (step + 1) % cfg.checkpoint_every == 0:
                values = finite_scalars(scalars, step + 1) | watch.look(step + 1)
                bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
                writer.write(step + 1, values)
                watch.say(step + 1, values, last)
        if tracer:
            tracer.stop(scalars)
        if first_step < cfg.num_steps and not stopping:
            with jax.transfer_guard("allow"):
                state = accept(state)
            save(state, scalars)
    writer.close()
    return Fitted(state, stopping)


def _save(
    checkpoints: Checkpoints,
    writer: ScalarWriter,
    state: TrainState,
    scalars: dict[str, jax.Array] | None,
    *,
    iterator: grain.DatasetIterator,
    meta: dict[str, Any],
    draw: Callable[[Any], dict[str, np.ndarray]] | None,
    held_out: HeldOut | None,
) -> None:
    """Saves, unless the step that made `state` went wrong: a good checkpoint is never replaced."""
    step = int(jax.device_get(state.step))
    if scalars is not None:
        finite_scalars(scalars, step)
    with jax.transfer_guard("allow"):  # the copies that orbax starts count as implicit
        checkpoints.save(step, state.model(), state.optimizer(), iterator, meta)
        if held_out is not None:
            writer.write(step, {"held_out_loss": held_out.loss(state.ema_params)})
    if draw is not None:
        writer.write_pictures(step, draw(state.ema_params))


def duration(seconds: float) -> str:
    """In words.

    >>> duration(44), duration(425), duration(40_000)
    ('44 s', '7 min', '11.1 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def finite_scalars(scalars: dict[str, jax.Array], step: int) -> dict[str, float]:
    """The scalars on the host.

    Raises:
      UserError: one of them is not finite.
    """
    values = {name: float(value) for name, value in jax.device_get(scalars).items()}
    bad = [f"{name}={value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"step {step}: {', '.join(bad)}: training diverged; the last good checkpoint is kept "
            "(lower train.learning_rate, or denoiser.dtype=float32)"
        )
    return values


def check_unchanged(
    workdir: Workdir, config: Config, fit: Sequence[Sample], encoder: str | None = None
) -> None:
    """Asked before a start writes anything, lest it spoils a workdir that it cannot go on with.

    Args:
      workdir: of the training.
      config: with which it shall go on.
      fit: images to train on.
      encoder: fingerprint of the network that looks at them; None: not known yet.

    Raises:
      UserError: there is a checkpoint of another config, of other images or of another encoder.
    """
    if workdir.config.is_file():
        workdir.check(config, training=True)
    saved = newest_meta(workdir.checkpoints)
    if saved:
        ours = saved | {"dataset": fingerprint(fit)} | ({"encoder": encoder} if encoder else {})
        _check_same_inputs(saved, ours, workdir)


def _check_same_inputs(saved: dict[str, Any], ours: dict[str, Any], workdir: Workdir) -> None:
    for name in ("kind", "dataset", "encoder", "coordinates"):
        if saved.get(name) != ours.get(name):
            raise UserError(
                f"{workdir.path}: its checkpoint was made with another {name} "
                f"({saved.get(name)}, now {ours.get(name)}); restore it or give another --workdir"
            )
