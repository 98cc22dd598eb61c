"""The volume terms against float64 Jacobians, and against Gaussian data, solved by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ode_likelihood import (
    eps_and_products,
    exact_log_abs_det,
    finite_steps,
    first_order,
    jacobian,
    log_likelihood,
    mean_stretch,
)
from scipy import stats

from invad_jax.diffusion.inversion import invert
from invad_jax.diffusion.schedule import Plan, linear_alpha_bar, make_plan, spaced_timesteps

SHAPE = (2, 2, 3)
DIMENSION = 12
ALPHA_BAR = linear_alpha_bar(1000, 1e-4, 2e-2)
RNG = np.random.default_rng(0)
WEIGHTS = [(RNG.normal(size=(12, 32)) / 12**0.5), (RNG.normal(size=(32, 12)) / 32**0.5)]
MEAN, STD = RNG.normal(size=SHAPE), np.exp(RNG.uniform(-1, 1, SHAPE))
BASIS = (DIMENSION**0.5 * np.eye(DIMENSION, dtype=np.float32)).reshape(-1, 1, *SHAPE)
"""Probes whose mean of v . E v is the trace itself."""


def mlp_eps(x, t):
    """A smooth network whose Jacobian is dense, differs from sample to sample and with t."""
    first, second = (jnp.asarray(w, jnp.float32) for w in WEIGHTS)
    hidden = jnp.tanh(jnp.reshape(x, (len(x), -1)) @ first * (1 + t[0] / 1000))
    return jnp.reshape(0.5 * hidden @ second, x.shape)


def mlp_jacobian(x, t):
    """Oracle: the derivative of `mlp_eps` by hand, one sample, float64."""
    gain = 1 + t / 1000
    slope = gain / np.cosh(np.asarray(x, np.float64).ravel() @ WEIGHTS[0] * gain) ** 2
    return 0.5 * (WEIGHTS[0] * slope @ WEIGHTS[1]).T


def fine_plan(num_steps, first=0.99, last=1e-8):
    """Noise levels evenly spaced in log sigma; `timesteps` number them."""
    sigma = np.geomspace(*(np.sqrt(1 / ab - 1) for ab in (first, last)), num_steps + 1)
    levels = (1 / (1 + sigma**2)).astype(np.float32)
    return Plan(np.arange(num_steps, dtype=np.int32), levels[:-1], levels[1:])


def gaussian_eps(plan):
    """The best noise predictor for data N(MEAN, diag STD^2)."""
    levels = jnp.asarray(plan.alpha_bar)
    mean, variance = (jnp.asarray(a, jnp.float32)[None] for a in (MEAN, STD**2))

    def eps_fn(x, t):
        ab = levels[t[0]]
        return jnp.sqrt(1 - ab) * (x - jnp.sqrt(ab) * mean) / (ab * variance + 1 - ab)

    return eps_fn


def normal(seed, batch=3):
    return np.random.default_rng(seed).normal(size=(batch, *SHAPE)).astype(np.float32)


def rademacher(num_probes, batch=1):
    signs = np.random.default_rng(9).integers(0, 2, (num_probes, batch, *SHAPE))
    return (2 * signs - 1).astype(np.float32)


def test_jacobian_equals_the_derivative_by_hand():
    x = normal(0)
    actual = jax.jit(lambda x: jacobian(lambda x: mlp_eps(x, jnp.array([500])), x))(x)
    expected = [mlp_jacobian(sample, 500) for sample in x]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)  # float32 against float64


def test_hutchinson_mean_equals_the_trace_within_standard_errors():
    x, num_probes = normal(1), 4000
    products = jax.jit(lambda v: eps_and_products(mlp_eps, x, jnp.array([500]), v)[1])(
        rademacher(num_probes)
    )  # (P, B)
    spread = np.std(products, axis=0)
    matrices = np.array([mlp_jacobian(sample, 500) for sample in x])
    # Hutchinson's variance; the spread of 4000 draws has a standard error of some 1 to 2 %.
    symmetric = (matrices + matrices.transpose(0, 2, 1)) / 2
    off_diagonal = symmetric * (1 - np.eye(DIMENSION))
    expected = np.sqrt(2 * np.sum(np.square(off_diagonal), (1, 2)))
    np.testing.assert_allclose(spread, expected, rtol=0.1)
    error = np.abs(np.mean(products, axis=0) - np.trace(matrices, axis1=1, axis2=2))
    assert (error < 4 * spread / num_probes**0.5).all()  # four standard errors


def test_one_rademacher_probe_is_exact_for_a_diagonal_jacobian():
    scale = jnp.asarray(STD, jnp.float32)[None]
    eps, products = jax.jit(
        lambda x: eps_and_products(lambda x, t: scale * x, x, jnp.array([0]), rademacher(1))
    )(normal(2))
    np.testing.assert_allclose(eps, scale * normal(2), rtol=1e-6)
    np.testing.assert_allclose(products, np.full((1, 3), STD.sum()), rtol=1e-6)  # float32 sum


def test_each_sample_has_its_own_probes_where_given():
    x, probes = normal(3), rademacher(2, batch=3)
    products = jax.jit(lambda v: eps_and_products(mlp_eps, x, jnp.array([0]), v)[1])(probes)
    for i in range(3):
        matrix = mlp_jacobian(x[i], 0)
        flat = np.asarray(probes[:, i], np.float64).reshape(2, -1)
        expected = np.einsum("pi,ij,pj->p", flat, matrix, flat)
        np.testing.assert_allclose(products[:, i], expected, rtol=1e-4, atol=1e-5)  # float32


@pytest.mark.parametrize("final_alpha_bar", [0.0, 0.01])
def test_exact_log_abs_det_is_that_of_the_whole_map(final_alpha_bar):
    plan = make_plan(ALPHA_BAR, spaced_timesteps("linspace", 3, 1000), final_alpha_bar)
    x0 = normal(4, batch=2)
    actual = jax.jit(lambda x: exact_log_abs_det(mlp_eps, x, plan))(x0)
    whole = jax.jit(
        jax.vmap(jax.jacfwd(lambda x: jnp.ravel(invert(mlp_eps, x.reshape(1, *SHAPE), plan))))
    )(x0.reshape(2, -1))
    expected = np.linalg.slogdet(np.asarray(whole, np.float64))[1]
    # Float32 products of three Jacobians, as badly conditioned as a random network's are.
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-2)


def test_likelihood_equals_a_float64_loop():
    """Basis probes leave nothing to chance: every term, on the plan of S = 4 less its last step."""
    plan = finite_steps(make_plan(ALPHA_BAR, spaced_timesteps("linspace", 4, 1000)))
    assert plan.timesteps.tolist() == [0, 333, 666]
    x0 = normal(5)
    actual = jax.jit(lambda x: log_likelihood(mlp_eps, x, plan, BASIS))(x0)
    levels = ALPHA_BAR[[0, 333, 666, 999]]
    sigma = np.sqrt((1 - levels) / levels)
    for i in range(3):
        y, volume = np.asarray(x0[i], np.float64).ravel() / np.sqrt(levels[0]), 0.0
        for k, t in enumerate((0, 333, 666)):
            x = np.sqrt(levels[k]) * y
            divergence = np.sqrt(levels[k]) * np.trace(mlp_jacobian(x, t))
            volume += (sigma[k + 1] - sigma[k]) * divergence
            gain = 1 + t / 1000
            eps = 0.5 * np.tanh(x @ WEIGHTS[0] * gain) @ WEIGHTS[1]
            y = y + (sigma[k + 1] - sigma[k]) * eps
        volume += DIMENSION / 2 * (np.log(levels[3]) - np.log(levels[0]))
        x_T = np.sqrt(levels[3]) * y
        # float32 against float64; the volume is a difference of numbers of some 1e2.
        np.testing.assert_allclose(actual.volume[i], volume, rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(actual.log_prior[i], stats.norm.logpdf(x_T).sum(), rtol=1e-4)
    np.testing.assert_allclose(actual.x_T, invert(mlp_eps, x0, plan), rtol=1e-5, atol=1e-5)


def both_terms(eps_fn, x0, plan, probes):
    """(2, B): the log-likelihood by `first_order` and by `mean_stretch`, and the volumes alone."""
    found = [log_likelihood(eps_fn, x0, plan, probes, term) for term in (first_order, mean_stretch)]
    return jnp.stack([f.log_prior + f.volume for f in found]), jnp.stack([f.volume for f in found])


def test_gaussian_likelihood_converges_at_first_order():
    """Half the step, half the error: Euler's order, towards the exact log-density."""
    x0 = normal(6)
    ab = 0.99
    std = np.sqrt(ab * STD**2 + 1 - ab)
    exact = stats.norm.logpdf(np.asarray(x0), np.sqrt(ab) * MEAN, std).sum(axis=(1, 2, 3))

    def error(num_steps):
        plan = fine_plan(num_steps)
        found = jax.jit(lambda x: both_terms(gaussian_eps(plan), x, plan, rademacher(1))[0])(x0)
        return np.asarray(found) - exact

    coarse, middle, fine = (error(num_steps) for num_steps in (200, 400, 800))
    # The error is c/S + O(1/S^2): at 400 steps the second part is a few hundredths of the first.
    np.testing.assert_allclose(middle / fine, 2.0, rtol=0.1)
    # Without its first order (Richardson), what is left shrinks by four, down to float32's 1e-3.
    assert (np.abs(2 * fine - middle) < np.abs(2 * middle - coarse) / 3 + 2e-3).all()


def test_volume_approaches_the_exact_determinant_in_small_steps():
    x0 = normal(7)

    def error(num_steps):
        plan = fine_plan(num_steps, first=0.9, last=0.2)
        return jax.jit(
            lambda x: (
                both_terms(mlp_eps, x, plan, BASIS)[1] - exact_log_abs_det(mlp_eps, x, plan)[None]
            )
        )(x0)

    # First order; errors are some 1e-3, of which float32 leaves 1e-4 uncertain.
    np.testing.assert_allclose(error(25) / error(50), 2.0, rtol=0.1)


@jax.jit
def found_and_exact(scale, x0, plan):
    """Of eps = scale * x, whose Jacobian is diagonal: `mean_stretch`, `first_order`, exact."""

    def eps_fn(x, t):
        return scale * x

    probes = rademacher(1)
    return (
        log_likelihood(eps_fn, x0, plan, probes, mean_stretch).volume,
        log_likelihood(eps_fn, x0, plan, probes, first_order).volume,
        exact_log_abs_det(eps_fn, x0, plan),
    )


PUBLISHED = make_plan(ALPHA_BAR, spaced_timesteps("linspace", 3, 1000))
"""Coarse, and its last step is the network alone."""


def test_mean_stretch_is_exact_for_an_even_stretch_and_else_an_upper_bound():
    even = np.full((1, *SHAPE), 0.7, np.float32)
    found, _, exact = found_and_exact(even, normal(8), PUBLISHED)
    np.testing.assert_allclose(found, exact, rtol=1e-5)  # float32
    uneven = np.linspace(0.2, 1.2, 12, dtype=np.float32).reshape(1, *SHAPE)
    found, _, exact = found_and_exact(uneven, normal(8), PUBLISHED)
    assert (found > exact + 0.1).all()


def test_first_order_is_far_off_where_steps_are_coarse():
    """Why `mean_stretch` is there: b / a is 43 in the second step, for each of 12 numbers."""
    even = np.full((1, *SHAPE), 0.7, np.float32)
    _, coarse, exact = found_and_exact(even, normal(8), finite_steps(PUBLISHED))
    assert (coarse > exact + 100).all()


def test_a_plan_of_one_step_to_no_signal_has_no_finite_step():
    with pytest.raises(ValueError, match="at least two timesteps"):
        finite_steps(make_plan(ALPHA_BAR, np.array([0])))
