"""Where the processor time of a training step goes: its parts, the system's share, page faults.

    python docs/studies/train_step.py
    python docs/studies/train_step.py --keep    # as `train` does: what is freed stays

A DiT of 6 x 384 on 16 x 16 x 192 and a batch of 4, as in the Lite0 table of docs/performance.md.
All parts in turn, the best of some runs each.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from invad_jax.config.io import load, override
from invad_jax.report.tables import markdown_table
from invad_jax.runtime import allocator

SIZES = (
    *("encoder.name=efficientnet_lite0", "encoder.stages=0,2,4,10", "denoiser.width=384"),
    *("denoiser.depth=6", "denoiser.num_heads=6", "train.batch_size=4"),
)
SHAPE, SIDE, RUNS = (16, 16, 192), 1536, 6


def parts() -> dict[str, Callable[[], Any]]:
    """Compiled, by name; the first is a product of large matrices."""
    import jax
    import jax.numpy as jnp

    from invad_jax.detector import LatentStats
    from invad_jax.inference.assembly import init_params
    from invad_jax.training.denoiser import denoiser_loss
    from invad_jax.training.step import create_state, make_optimizer, train_step

    config = override(load("configs/mvtec_dit.py"), SIZES)
    tx, loss = make_optimizer(config.train), denoiser_loss(config)
    params = jax.jit(partial(init_params, config, SHAPE))(jax.random.key(0))
    channels = jnp.zeros(SHAPE[-1])
    state = create_state(params, LatentStats(channels, channels + 1), jax.random.key(0), tx)
    batch = {"latent": jnp.ones((config.train.batch_size, *SHAPE))}
    drawn = loss.draw(batch, jax.random.key(1))

    def value(params: Any) -> jax.Array:
        return loss.given(params, state.frozen, drawn)[0]

    matrix = jnp.ones((SIDE, SIDE))
    functions = {
        f"product of {SIDE} x {SIDE}": (lambda a: a @ a, matrix),
        "loss": (value, params),
        "loss and gradient": (jax.value_and_grad(value), params),
        "update": (lambda grads: tx.update(grads, state.opt_state, params), params),
        "step": (partial(train_step, loss_fn=loss, tx=tx, ema_decay=0.999), state, batch),
    }
    compiled = {
        name: partial(jax.jit(function).lower(*given).compile(), *given)
        for name, (function, *given) in functions.items()
    }
    return {name: lambda run=run: jax.block_until_ready(run()) for name, run in compiled.items()}


def used() -> np.ndarray:
    """Milliseconds of the processor, those of the system among them, and page faults."""
    found = resource.getrusage(resource.RUSAGE_SELF)
    own, system = 1e3 * found.ru_utime, 1e3 * found.ru_stime
    return np.array([own + system, system, found.ru_minflt])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true")
    if parser.parse_args().keep:
        allocator.keep_freed()
    runs = parts()
    taken: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    for _ in range(RUNS):
        for name, run in runs.items():
            before = used()
            run()
            taken[name].append(used() - before)
    rows = []
    for name, found in taken.items():
        best = min(found, key=lambda one: one[0])
        rows.append([name, *(f"{value:,.0f}" for value in best)])
    print("\n".join(markdown_table(("part", "ms", "of the system", "page faults"), rows)))


if __name__ == "__main__":
    main()
