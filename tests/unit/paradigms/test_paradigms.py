"""What each way of comparing consists of, and that its options are those with an effect."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import Config
from invad_jax.config.effect import is_read
from invad_jax.config.io import assign, override
from invad_jax.diffusion.schedule import linear_alpha_bar
from invad_jax.errors import UserError
from invad_jax.paradigms import PARADIGMS, paradigm_of

ALPHA_BAR = linear_alpha_bar(1000, 1e-4, 2e-2)
X0 = np.asarray(jax.random.normal(jax.random.key(6), (2, 4, 4, 3)))


def eps_fn(x, t):
    """Depends on both."""
    return jnp.tanh(x) * 0.7 + 1e-4 * t[:, None, None, None]


def of(*options):
    return paradigm_of(override(Config(), list(options)))


def python_loop(x0, timesteps):
    """Float64, the published formula; x_T for a last level of 0."""
    x = np.asarray(x0, np.float64)
    levels = [*ALPHA_BAR[list(timesteps[1:])], 0.0]
    for t, after in zip(timesteps, levels, strict=True):
        eps = np.tanh(x) * 0.7 + 1e-4 * t
        x0_hat = (x - np.sqrt(1 - ALPHA_BAR[t]) * eps) / np.sqrt(ALPHA_BAR[t])
        x = np.sqrt(after) * x0_hat + np.sqrt(1 - after) * eps
    return x


@pytest.mark.parametrize("prior", ["fitted", "standard_normal"])
def test_the_states_of_an_inversion(prior):
    x_T = python_loop(X0, (0, 500, 999))
    paradigm = of(f"scoring.prior={prior}")
    states = jax.jit(lambda x: paradigm.states(eps_fn, x))(X0)
    np.testing.assert_allclose(states, x_T[:, None], rtol=1e-4, atol=1e-5)  # float32 against 64
    assert paradigm.nfe == 3


WHITE = ("train.latent_stats=whiten", "diffusion.prediction=v")


@pytest.mark.parametrize("latents", [(), WHITE])
@pytest.mark.parametrize("prior", ["fitted", "standard_normal"])
def test_without_steps_x0_itself_is_compared_and_no_network_asked(latents, prior):
    config = override(Config(), [*latents, f"scoring.prior={prior}", "inversion.num_steps=0"])
    paradigm = paradigm_of(config)
    assert (paradigm.nfe, paradigm.timesteps, paradigm.inverts) == (0, (), True)
    np.testing.assert_array_equal(paradigm.states(None, X0), X0[:, None])
    for option in ("spacing=paper", "solver=angle", "use_ema=false"):
        with pytest.raises(UserError, match="would have no effect"):
            override(config, [f"inversion.{option}"])


@pytest.mark.parametrize("latents", [(), WHITE])
@pytest.mark.parametrize("solver", ["ddim", "angle"])
@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_the_path_of_an_inversion_ends_at_what_is_compared(latents, solver, num_steps):
    config = assign(
        Config(),
        [*latents, f"inversion.solver={solver}", f"inversion.num_steps={num_steps}"],
    )
    paradigm = paradigm_of(config)
    path = jax.jit(lambda x: paradigm.path(eps_fn, x))(X0)
    assert path.shape == (num_steps + 1, *X0.shape)
    np.testing.assert_array_equal(path[0], X0)
    compared = jax.jit(lambda x: paradigm.states(eps_fn, x))(X0)[:, -1]
    # Two programs of the same sums: float32 roundings.
    np.testing.assert_allclose(path[-1], compared, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", ["ddim", "angle"])
def test_white_latents_stay_where_they_are_on_the_whole_path(solver):
    paradigm = paradigm_of(assign(Config(), [*WHITE, f"inversion.solver={solver}"]))

    def optimal(x, t):
        return jnp.sqrt(1 - jnp.asarray(ALPHA_BAR, jnp.float32)[t])[:, None, None, None] * x

    path = paradigm.path(optimal, X0)
    expected = np.broadcast_to(X0, path.shape)
    np.testing.assert_allclose(path, expected, rtol=1e-4, atol=1e-5)  # float32 against 64


def test_the_path_of_a_reconstruction_ends_at_what_came_back():
    paradigm = of("inversion.paradigm=reconstruction")
    path = paradigm.path(eps_fn, X0)
    assert len(path) == paradigm.nfe + 1
    error = np.square(path[-1] - X0)
    np.testing.assert_allclose(paradigm.states(eps_fn, X0)[:, 0], error, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["reconstruction", "deco_diff", "mad_ad", "diad", "transfusion"])
def test_what_walks_takes_a_step_at_least(name):
    with pytest.raises(UserError, match=f"inversion.paradigm={name} takes at least 1"):
        of("inversion.num_steps=0", f"inversion.paradigm={name}")


@pytest.mark.parametrize("name", ["padim", "nearest_neighbour", "retrieval"])
def test_the_baselines_ask_no_network(name):
    paradigm = of(f"inversion.paradigm={name}")
    assert paradigm.nfe == 0
    np.testing.assert_array_equal(paradigm.states(None, X0), X0[:, None])


def other_value(config, name):
    """An assignment that changes an option of `inversion` or `scoring`."""
    values = {
        "inversion.num_steps": "2", "inversion.spacing": "quadratic", "inversion.noise_ratio": "1",
        "inversion.use_ema": "false", "inversion.solver": "angle", "inversion.label": "3",
        "scoring.prior": "standard_normal", "scoring.components": "one",
        "scoring.terms": "nll,map_max",
    }  # fmt: skip
    return f"{name}={values[name]}"


NEEDED = {
    "deco_diff": ("diffusion.prediction=deviation", "diffusion.num_timesteps=10"),
    "mad_ad": ("diffusion.prediction=sample", "diffusion.num_timesteps=10"),
    "omiad": ("diffusion.prediction=sample",),
    "transfusion": ("diffusion.num_timesteps=5",),
    "diad": ("inversion.num_steps=4",),
}
"""What a detector of others takes of the section `diffusion`, and as many steps as it can take."""


def outputs_fn(x, t, mask=None, label=None):
    """All outputs that any of them reads."""
    eps = eps_fn(x, t)
    if label is not None:
        eps = eps + 0.1 * label[:, None, None, None]
    first = eps[..., :1]
    return {
        "eps": eps, "deviation": eps, "x0": eps, "mask": first, "noise": eps, "mean": 0.5 * eps,
        "mask_logits": first,
    }  # fmt: skip


def meaning(config, x0):
    """All that a config's scores follow from: what is compared, learnt and added up; the message,
    where a value is refused."""
    try:
        paradigm = paradigm_of(config)
    except UserError as error:
        return str(error)
    states = np.asarray(paradigm.states(outputs_fn if paradigm.asks else eps_fn, x0))
    return states.tobytes(), paradigm.lessons, paradigm.terms, config.inversion.use_ema


@pytest.mark.parametrize("name", PARADIGMS)
def test_options_without_effect_change_nothing_and_the_others_do(name):
    config = override(Config(), [f"inversion.paradigm={name}", *NEEDED.get(name, ())])
    for section in ("inversion", "scoring"):
        for field in dataclasses.fields(getattr(config, section)):
            option = f"{section}.{field.name}"
            if option == "inversion.paradigm":
                continue
            changed = assign(config, [other_value(config, option)])
            same = meaning(changed, X0) == meaning(config, X0)
            if option == "inversion.use_ema" and not paradigm_of(config).nfe:
                same = True  # the parameters are asked by nobody
            assert same != is_read(config, option), option
