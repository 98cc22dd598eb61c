"""One optimisation step: learns, averages, is reproducible, compiles once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invad_jax.config import DenoiserConfig, TrainConfig
from invad_jax.denoisers import build_denoiser
from invad_jax.detector import LatentStats
from invad_jax.training.step import (
    create_state,
    ema_decay_at,
    make_optimizer,
    train_step,
)
from tests.losses import diffusion_loss

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
    loss_fn = diffusion_loss(denoise, ALPHA_BAR)

    def step(state, batch, parts=1):
        return train_step(
            state, batch, loss_fn=loss_fn, tx=tx, ema_decay=CFG.ema_decay, grad_accumulation=parts
        )

    return state, step


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


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_batch_in_parts_is_the_same_step(parts):
    state, step_fn = make()
    whole, whole_scalars = step_fn(state, BATCH)
    taken, scalars = step_fn(state, BATCH, parts)
    # The same float32 sums in another order; Adam's first step is scale-free, so compare both.
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(scalars[name], whole_scalars[name], rtol=1e-6)
    np.testing.assert_allclose(taken.params["gain"], whole.params["gain"], atol=1e-6)


def test_parts_draw_what_the_whole_batch_would():
    """Rows that are all alike still meet different noise in different parts."""
    state, step_fn = make()
    alike = {"latent": jnp.broadcast_to(BATCH["latent"][:1], BATCH["latent"].shape)}
    losses = [float(step_fn(state, alike, parts)[1]["loss"]) for parts in (1, 2, 8)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)  # order of sums


def dit(dtype="float32"):
    """Makers of a small DiT's state and of its next step."""
    cfg = DenoiserConfig(width=16, depth=2, num_heads=2, dtype=dtype)
    denoiser = build_denoiser(cfg, (2, 2, 3))
    tx = make_optimizer(TrainConfig(num_steps=10, warmup_steps=0, learning_rate=0.1))
    loss_fn = diffusion_loss(lambda p, x, t: denoiser.apply({"params": p}, x, t), ALPHA_BAR)

    def create():
        params = denoiser.init(jax.random.key(0), BATCH["latent"], jnp.zeros(8, jnp.int32))
        stats = LatentStats(jnp.zeros(3), jnp.ones(3))
        return create_state(params["params"], stats, jax.random.key(1), tx)

    return create, lambda s: train_step(s, BATCH, loss_fn=loss_fn, tx=tx, ema_decay=0.9)


def test_fixed_positions_are_never_trained():
    create, step_fn = dit()

    @jax.jit
    def before_and_after():
        state = create()
        return state.params, step_fn(state)[0]

    before, after = before_and_after()
    for tree in (after.params, after.ema_params):
        np.testing.assert_array_equal(tree["positions"], before["positions"])


def test_bfloat16_activations_leave_gradients_and_state_float32():
    """No gradient is rounded on its way: every product that makes one gives float32."""
    create, step_fn = dit("bfloat16")
    state = jax.eval_shape(create)
    after, scalars = jax.eval_shape(step_fn, state)
    floats = [leaf.dtype for leaf in jax.tree.leaves((after.params, after.opt_state, scalars))]
    assert {d for d in floats if jnp.issubdtype(d, jnp.floating)} == {jnp.dtype("float32")}
    products = [
        equation for equation in equations(jax.make_jaxpr(step_fn)(state).jaxpr)
        if equation.primitive.name == "dot_general"
    ]  # fmt: skip
    assert "bfloat16" in {str(e.invars[0].aval.dtype) for e in products}  # and yet:
    gradients = [e for e in products if contracts_rows(e, len(BATCH["latent"]))]
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    assert len(gradients) == sum("kernel" in jax.tree_util.keystr(path[-1:]) for path in paths)
    assert {str(e.outvars[0].aval.dtype) for e in gradients} == {"float32"}


def contracts_rows(equation, batch):
    (left, _), (batched, _) = equation.params["dimension_numbers"]
    return 0 in left and not batched and equation.invars[0].aval.shape[0] == batch


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
