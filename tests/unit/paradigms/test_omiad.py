"""The distillation to one step: its losses, what they reach, and what is evaluated."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import Config, DenoiserConfig
from invad_jax.config.io import override
from invad_jax.diffusion.loss import perturb
from invad_jax.errors import UserError
from invad_jax.inference.assembly import abstract_params, outputs
from invad_jax.paradigms import objective_of, omiad, paradigm_of
from invad_jax.paradigms.levels import alpha_bar_of
from tests.golden import nhwc
from tests.parameters import norm, random_like

SHAPE = (4, 4, 3)
OPTIONS = ["train.objective=omiad", "inversion.paradigm=omiad", "diffusion.prediction=sample"]
SMALL = ["denoiser.width=16", "denoiser.depth=1", "denoiser.num_heads=2"]
asked = jax.jit(outputs, static_argnums=0, static_argnames=("of", "judged"))


def sigma_of(uniform):
    """Karras, rho 7, between 0.002 and 80, its lower four fifths; as published."""
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    return (low + 0.8 * uniform * (high - low)) ** 7


@pytest.mark.parametrize("alpha", [1, 1.2])
def test_the_generators_loss_is_the_published_one(golden_dir, alpha):
    golden = np.load(golden_dir / "rivals" / "sid_loss" / "losses.npz")
    sigma, noise = jnp.asarray(sigma_of(golden["uniform"])), nhwc(golden["gauss"])

    def losses(made):
        y = made + sigma * noise
        true, fake = y / (1 + sigma**2), 0.9 * y / (1 + 0.5 * sigma**2)
        return omiad.generator_loss(made, true, fake, alpha)

    made = nhwc(golden["images"])
    for found, key in (
        (losses(made), "loss"),
        (jax.grad(lambda x: jnp.sum(losses(x)))(made), "gradient"),
    ):
        expected = nhwc(golden[f"generator_{key}_alpha{alpha}"])
        scale = float(jnp.max(jnp.abs(expected)))
        np.testing.assert_allclose(found, expected, atol=1e-4 * scale)  # float32, as theirs


def test_the_followers_loss_is_the_published_one(golden_dir):
    golden = np.load(golden_dir / "rivals" / "sid_loss" / "losses.npz")
    made = nhwc(golden["images"])
    sigma = jnp.exp(-1.2 + 1.2 * jnp.asarray(golden["normal"]))
    y = made + sigma * nhwc(golden["gauss"])
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    found = weight * omiad.follower_loss(made, 0.9 * y / (1 + 0.5 * sigma**2))
    np.testing.assert_allclose(found, nhwc(golden["fake_score_loss"]), rtol=1e-4)


@pytest.fixture(scope="module")
def made():
    config = override(Config(), [*OPTIONS, *SMALL])
    return config, random_like(abstract_params(config, SHAPE), 0.1)


def test_what_learns_from_what(made):
    """The teacher nothing; the follower from images of the student, which it does not change."""
    config, params = made
    objective = objective_of(config)
    x0 = jnp.asarray(np.random.default_rng(0).standard_normal((2, *SHAPE)), jnp.float32)
    drawn = jax.jit(objective.draw)(x0, jax.random.key(1))

    def loss(params):
        return jnp.sum(objective.loss(lambda *a, **k: outputs(config, params, *a, **k), x0, drawn))

    grads = jax.jit(jax.grad(loss))(params)
    total = {name: norm(grads[name]) for name in params}
    assert total["teacher"] == 0
    assert total["student"] > 0

    def follows(params):
        t = drawn["t"]
        start = jnp.sqrt(0.5) * (x0 + drawn["noise"])
        said = outputs(config, params, start, t, of="follower")["x0"]
        return jnp.sum(omiad.follower_loss(x0, said))

    alone = jax.jit(jax.grad(follows))(params)
    assert norm(alone["follower"]) > 0
    assert total["follower"] > 0


@pytest.fixture(scope="module")
def judged():
    config = override(Config(), [*OPTIONS[1:], *SMALL, "train.objective=omiad_adversarial"])
    return config, random_like(abstract_params(config, SHAPE), 0.1)


def test_the_judge_learns_to_tell_and_the_student_to_pass(judged):
    """Beside the terms without it: the loss by hand, and whom its gradients reach."""
    config, params = judged
    assert set(params) == {"student", "teacher", "follower", "verdict"}
    x0 = jnp.asarray(np.random.default_rng(4).standard_normal((2, *SHAPE)), jnp.float32)
    objective = objective_of(config)
    plain = objective_of(override(config, ["train.objective=omiad"]))
    drawn = jax.jit(objective.draw)(x0, jax.random.key(1))

    def total(objective, params):
        return jnp.sum(objective.loss(lambda *a, **k: outputs(config, params, *a, **k), x0, drawn))

    def extra(params):
        return total(objective, params) - total(plain, params)

    value, grads = jax.jit(jax.value_and_grad(extra))(params)
    ask = partial(asked, config, params)
    level = jnp.asarray(alpha_bar_of(config), jnp.float32)
    start = perturb(x0, drawn["noise"], jnp.full(2, level[499]))
    made = ask(start, np.full(2, 499))["x0"]
    real, fake = (
        np.asarray(
            ask(perturb(x, drawn["noise_again"], level[drawn["t"]]), drawn["t"],
                of="follower", judged=True)["real"], np.float64)
        for x in (x0, made)
    )  # fmt: skip
    softplus = lambda x: np.log1p(np.exp(x)).mean((1, 2, 3)).sum()  # noqa: E731
    by_hand = omiad.ADVERSARIAL * (softplus(-real) + softplus(fake) + softplus(-fake))
    assert value == pytest.approx(by_hand, rel=1e-3)  # a difference of sums in float32
    size = {k: norm(v) for k, v in grads.items()}
    assert size["teacher"] < 1e-6
    assert size["student"] > 1e-6
    assert size["verdict"] > 1e-6


def test_where_a_judge_is_blind_the_student_learns_nothing_of_it(judged):
    config, params = judged
    blind = params | {"verdict": jax.tree.map(jnp.zeros_like, params["verdict"])}
    x = jnp.ones((1, *SHAPE))
    said = asked(config, blind, x, jnp.array([3]), of="follower", judged=True)
    np.testing.assert_array_equal(said["real"], jnp.zeros((1, 4, 4, 1)))


def test_equal_scores_teach_the_student_nothing():
    made = jnp.ones((1, 2, 2, 3))
    same = jnp.full((1, 2, 2, 3), 0.3)
    np.testing.assert_array_equal(omiad.generator_loss(made, same, same, 1.2), 0 * made)


def test_the_student_is_asked_once(made):
    config, params = made
    paradigm = paradigm_of(config)
    assert paradigm.timesteps == (499,)
    x0 = jnp.asarray(np.random.default_rng(1).standard_normal((2, *SHAPE)), jnp.float32)
    seen = []

    def ask(x, t):
        seen.append(t)
        return asked(config, params, x, t)

    start, end = paradigm.path(ask, x0)
    assert [t.tolist() for t in seen] == [[499]]
    expected = asked(config, {"student": params["student"]}, start, jnp.array([499]))["x0"]
    np.testing.assert_array_equal(end, expected)
    states = paradigm.states(ask, x0)
    np.testing.assert_allclose(states[:, 0], end - x0, atol=1e-6)


def test_it_needs_a_network_that_says_x0():
    with pytest.raises(UserError, match=r"diffusion.prediction=eps"):
        objective_of(override(Config(denoiser=DenoiserConfig()), ["train.objective=omiad"]))
