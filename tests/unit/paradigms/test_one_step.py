"""An inversion that is distilled: what the student is to say, and that the teacher stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.diffusion.inversion import invert
from invad_jax.diffusion.schedule import linear_alpha_bar, make_plan
from invad_jax.errors import UserError
from invad_jax.inference.assembly import abstract_params, denoise, outputs
from invad_jax.paradigms import objective_of, paradigm_of
from tests.parameters import random_like

SHAPE = (4, 4, 3)
OPTIONS = ["train.objective=one_step", "inversion.num_steps=1", "scoring.prior=standard_normal",
           "denoiser.width=16", "denoiser.depth=1", "denoiser.num_heads=2"]  # fmt: skip


@pytest.fixture(scope="module")
def made():
    config = override(Config(), OPTIONS)
    params = random_like(abstract_params(config, SHAPE), 0.1)
    x0 = jnp.asarray(np.random.default_rng(0).standard_normal((2, *SHAPE)), jnp.float32)
    return config, params, x0


def test_the_student_is_held_against_ten_steps_of_the_teacher(made):
    config, params, x0 = made
    objective = objective_of(config)
    assert objective.draw(x0, jax.random.key(0)) == {}

    def loss(params):
        losses = objective.loss(lambda *a, **k: outputs(config, params, *a, **k), x0, {})
        return jnp.sum(losses), losses

    @jax.jit
    def inverted(params):
        return paradigm_of(config).states(lambda x, t: denoise(config, params, x, t), x0)[:, 0]

    student = inverted(params)
    alone = {"student": params["teacher"], "teacher": params["teacher"]}
    timesteps = np.linspace(0, 999, 10).astype(int)
    plan = make_plan(linear_alpha_bar(1000, 1e-4, 2e-2), timesteps)
    teacher = jax.jit(lambda x0: invert(lambda x, t: denoise(config, alone, x, t), x0, plan))(x0)
    expected = np.mean((np.asarray(student) - np.asarray(teacher)) ** 2, axis=(1, 2, 3))
    (_, losses), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["teacher"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads["student"]))


def test_it_needs_a_network_that_says_the_noise():
    with pytest.raises(UserError, match=r"diffusion.prediction=v: train.objective=one_step takes"):
        objective_of(override(Config(), [OPTIONS[0], "diffusion.prediction=v"]))
