"""One optimisation step: learns, averages, is reproducible, compiles once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from invad_jax.config import TrainConfig
from invad_jax.detector import LatentStats
from invad_jax.train_step import (
    create_state,
    ema_decay_at,
    make_denoiser_loss,
    make_optimizer,
    train_step,
)

CFG = TrainConfig(num_steps=40, warmup_steps=4, learning_rate=3e-2, ema_decay=0.9)
ALPHA_BAR = jnp.linspace(0.999, 0.001, 10, dtype=jnp.float32)
BATCH = {"latent": jax.random.normal(jax.random.key(0), (8, 2, 2, 3)) * 5 + 2}


def denoise(params, x, t):
    """The best linear denoiser: a gain that may depend on t."""
    return x * params["gain"][t].reshape(-1, 1, 1, 1)


def make():
    tx = make_optimizer(CFG)
    frozen = LatentStats(jnp.full(3, 2.0), jnp.full(3, 5.0))
    state = create_state({"gain": jnp.zeros(10)}, frozen, jax.random.key(1), tx)
    loss_fn = make_denoiser_loss(denoise, ALPHA_BAR)
    return state, lambda s, b: train_step(s, b, loss_fn=loss_fn, tx=tx, ema_decay=CFG.ema_decay)


def run(steps):
    state, step_fn = make()
    compiled, losses = jax.jit(step_fn), []
    for _ in range(steps):
        state, scalars = compiled(state, BATCH)
        losses.append(float(scalars["loss"]))
    return state, losses, compiled


def test_the_loss_falls_and_the_step_compiles_once():
    state, losses, compiled = run(40)
    assert int(state.step) == 40
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert compiled._cache_size() == 1


def test_same_seed_same_bits():
    first, second = run(5)[0], run(5)[0]
    jax.tree.map(
        np.testing.assert_array_equal,
        first.replace(rng=jax.random.key_data(first.rng)),
        second.replace(rng=jax.random.key_data(second.rng)),
    )


def test_each_step_draws_other_noise():
    state, step_fn = make()
    later = state.replace(step=state.step + 1)
    assert step_fn(state, BATCH)[1]["loss"] != step_fn(later, BATCH)[1]["loss"]


def test_the_average_is_the_documented_one():
    state, step_fn = make()
    after, _ = step_fn(state, BATCH)
    decay = 1.0 / 10.0  # (1 + 0) / (10 + 0)
    expected = decay * state.params["gain"] + (1 - decay) * after.params["gain"]
    np.testing.assert_allclose(after.ema_params["gain"], expected, rtol=1e-6)  # float32 rounding
    assert float(ema_decay_at(jnp.int32(10**6), 0.999)) == np.float32(0.999)


def test_frozen_arrays_stay():
    state, step_fn = make()
    after, _ = step_fn(state, BATCH)
    jax.tree.map(np.testing.assert_array_equal, state.frozen, after.frozen)


def test_learning_rate_warms_up_and_decays():
    """The size of Adam's first steps is the learning rate itself."""
    tx = make_optimizer(TrainConfig(num_steps=100, warmup_steps=10, learning_rate=0.1))
    params = jnp.ones(1)
    opt_state, sizes = tx.init(params), []
    for _ in range(100):
        updates, opt_state = tx.update(jnp.ones(1) * 0.5, opt_state, params)
        params = optax.apply_updates(params, updates)
        sizes.append(-float(updates[0]))
    assert sizes[0] < 1e-5
    # Adam with a constant gradient moves by the learning rate, up to its epsilon.
    np.testing.assert_allclose(sizes[10], 0.1, rtol=1e-4)
    assert np.all(np.diff(sizes[:11]) > 0)
    assert np.all(np.diff(sizes[10:]) < 0)
