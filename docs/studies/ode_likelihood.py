"""How the inversion changes volume: the other half of a likelihood, next to N(x_T; 0, I).

A map x0 -> x_T gives x0 the density log p(x0) = log N(x_T; 0, I) + log|det dx_T/dx0|; the paper's
score is the first term alone. The second can be meant in two ways that agree for small steps only.

**The map as computed.** With E = d eps/dx, a step of `inversion.euler_step` has the Jacobian

    J = a I + b E,   a = sqrt(ab'/ab),   b = sqrt(1 - ab') - a sqrt(1 - ab),   ab' = alpha_bar_next

and log|det dx_T/dx0| is the sum of log|det J| over the steps. Where ab' = 0, J is E: the last step
is the network alone. `exact_log_abs_det` computes it; d^2 numbers and d^3 work, for small latents.

**The ODE.** In y = x / sqrt(ab) it reads dy/dsigma = eps (see `inversion.py`), and its divergence
is sqrt(ab) tr E, as dx = sqrt(ab) dy. The instantaneous change of variables (Chen et al. 2018,
theorem 1; Song et al. 2021, equation 39) is d log p(y)/dsigma = -sqrt(ab) tr E. By the same Euler
steps, and with d log sqrt(ab) at either end to go from x to y and back,

    log p(x0) = log N(x_T; 0, I) + sum over steps of [d log a + sqrt(ab) (sigma' - sigma) tr E].

As sqrt(ab) (sigma' - sigma) = b / a, the bracket is log|det J| to first order in b E / a:
`first_order`. In a coarse plan b / a is no small number (43 for S = 3), and where ab' = 0 it is
infinite; `finite_steps` drops that step. `mean_stretch` is another quantity that the trace is
enough for: d log|a + b tr E / d|, as if J stretched all directions alike. It agrees with
`first_order` to first order, exists for every step, and where J is symmetric and positive it is an
upper bound of log|det J| (a mean of logarithms is at most the logarithm of the mean).

p is the density at the first level of the plan, alpha_bar[0], as the inversion takes x0 for a state
there. tr E is Hutchinson's estimate, the mean of v . E v over probes v of mean 0 and covariance I.
As v . E v = v . E^T v, either mode of differentiation gives it, for about another evaluation of the
network each; here it is reverse mode (`jax.vjp`), which Song et al. use too, because the denoisers
define their own gradients (`denoisers.embeddings.matmul`), and `jax.jvp` refuses such functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.diffusion.inversion import EpsFn, euler_step
from invad_jax.diffusion.schedule import Plan

VolumeTerm = Callable[[jax.Array, int, jax.Array, jax.Array], jax.Array]
"""(tr E, d, alpha_bar, alpha_bar_next) -> nats, of one step: `first_order` or `mean_stretch`."""


class Likelihood(NamedTuple):
    """A log-likelihood by its parts, whose sum it is."""

    x_T: jax.Array  # noqa: N815, the field's own capital
    """(B, h, w, C) float32, as from `inversion.invert`."""
    log_prior: jax.Array
    """(B,) float32, nats: log N(x_T; 0, I)."""
    volume: jax.Array
    """(B,) float32, nats: log-determinant of the inversion, as the volume term has it."""


def eps_and_products(
    eps_fn: EpsFn, x: jax.Array, t: jax.Array, probes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One prediction, and v . E v for each probe v, whose mean estimates tr E without bias.

    Rademacher probes, of -1 and 1, have the least variance: twice the sum of the squares of the
    off-diagonal elements of E's symmetric part, divided by P (Hutchinson 1990).

    Args:
      eps_fn: the noise predictor; no sample of a batch depends on another.
      x: (B, h, w, C) float32.
      t: (1,) integer.
      probes: (P, B, h, w, C) float32; or (P, 1, h, w, C), the same for every sample, so that a
        score does not depend on the place in the batch.

    Returns:
      eps (B, h, w, C), and the products (P, B).
    """

    eps, pull_back = jax.vjp(lambda x: eps_fn(x, t), x)

    def product(probe: jax.Array) -> jax.Array:  # (B, h, w, C) -> (B,)
        return jnp.sum(probe * pull_back(probe)[0], axis=(1, 2, 3))

    probes = jnp.broadcast_to(probes, (probes.shape[0], *x.shape))  # (P, B, h, w, C)
    return eps, jax.vmap(product)(probes)


def invert_with_products(
    eps_fn: EpsFn, x0: jax.Array, plan: Plan, probes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The inversion, and `eps_and_products` at each of its S states; arguments as there.

    Returns:
      states (S + 1, B, h, w, C), from x0 to x_T, and products (S, P, B).
    """

    def body(x: jax.Array, step: Plan) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        eps, products = eps_and_products(eps_fn, x, step.timesteps[None], probes)
        x = euler_step(x, eps, step.alpha_bar, step.alpha_bar_next)
        return x, (x, products)

    _, (states, products) = jax.lax.scan(body, x0, Plan(*map(jnp.asarray, plan)))
    return jnp.concatenate([x0[None], states]), products


def first_order(
    trace: jax.Array, dimension: int, alpha_bar: jax.Array, alpha_bar_next: jax.Array
) -> jax.Array:
    """d log a + (b / a) tr E: the Euler step of the instantaneous change of variables.

    Args:
      trace: tr E, of any shape.
      dimension: d = h w C.
      alpha_bar: in (0, 1], broadcasts against the trace.
      alpha_bar_next: in (0, 1]; 0 gives no number.
    """
    a, b = _coefficients(alpha_bar, alpha_bar_next)
    return dimension * jnp.log(a) + b / a * trace


def mean_stretch(
    trace: jax.Array, dimension: int, alpha_bar: jax.Array, alpha_bar_next: jax.Array
) -> jax.Array:
    """d log|a + b tr E / d|: exact where E is a multiple of I; arguments as of `first_order`.

    alpha_bar_next may be 0. Not linear in the trace, so with few probes no longer unbiased.
    """
    a, b = _coefficients(alpha_bar, alpha_bar_next)
    return dimension * jnp.log(jnp.abs(a + b * trace / dimension))


def volume(term: VolumeTerm, trace: jax.Array, dimension: int, plan: Plan) -> jax.Array:
    """The sum of a volume term over the steps of a plan: trace (S, B) -> (B,) nats."""
    _, alpha_bar, alpha_bar_next = (jnp.asarray(array)[:, None] for array in plan)  # (S, 1)
    return jnp.sum(term(trace, dimension, alpha_bar, alpha_bar_next), axis=0)


def log_prior(x_T: jax.Array) -> jax.Array:
    """log N(x_T; 0, I), (B, h, w, C) -> (B,) nats."""
    constant = math.prod(x_T.shape[1:]) * math.log(2 * math.pi)
    return -0.5 * (jnp.sum(jnp.square(x_T), axis=(1, 2, 3)) + constant)


def log_likelihood(
    eps_fn: EpsFn, x0: jax.Array, plan: Plan, probes: jax.Array, term: VolumeTerm = first_order
) -> Likelihood:
    """The likelihood by change of variables, with estimated volume terms.

    S = len(plan.timesteps) evaluations of the network, and P products with its Jacobian each.

    Args:
      eps_fn: the noise predictor.
      x0: (B, h, w, C) float32.
      plan: from `schedule.make_plan`; for `first_order` through `finite_steps`.
      probes: (P, B, h, w, C) or (P, 1, h, w, C) float32, used again at each step.
      term: what stands for the log-determinant of a step.
    """
    states, products = invert_with_products(eps_fn, x0, plan, probes)
    trace = jnp.mean(products, axis=1)  # (S, B)
    return Likelihood(
        states[-1], log_prior(states[-1]), volume(term, trace, math.prod(x0.shape[1:]), plan)
    )


def exact_log_abs_det(eps_fn: EpsFn, x0: jax.Array, plan: Plan) -> jax.Array:
    """log|det dx_T/dx0| of `inversion.invert`, (B,) nats, exactly; for small latents.

    Memory: B d^2 numbers. Arguments as of `log_likelihood`; alpha_bar_next may be 0.
    """

    def body(x: jax.Array, step: Plan) -> tuple[jax.Array, jax.Array]:
        def move(x: jax.Array) -> jax.Array:
            eps = eps_fn(x, step.timesteps[None])  # (B, h, w, C)
            return euler_step(x, eps, step.alpha_bar, step.alpha_bar_next)

        return move(x), jnp.linalg.slogdet(jacobian(move, x)).logabsdet

    _, log_abs_det = jax.lax.scan(body, x0, Plan(*map(jnp.asarray, plan)))  # (S, B)
    return jnp.sum(log_abs_det, axis=0)


def jacobian(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """The Jacobian of each sample, (B, d, d), of a function that keeps the shape (B, h, w, C)."""
    dimension = math.prod(x.shape[1:])
    of_one = jax.vmap(jax.jacrev(lambda sample: function(sample[None])[0]))
    return jnp.reshape(of_one(x), (x.shape[0], dimension, dimension))


def finite_steps(plan: Plan) -> Plan:
    """The plan (of NumPy arrays) without the steps that lead to alpha_bar 0.

    Raises:
      ValueError: no step is left.

    >>> plan = Plan(np.array([0, 500]), np.array([0.99, 0.1]), np.array([0.1, 0.0]))
    >>> finite_steps(plan).timesteps.tolist()
    [0]
    """
    kept = np.asarray(plan.alpha_bar_next) > 0
    if not kept.any():
        raise ValueError("every step leads to alpha_bar 0; at least two timesteps are needed")
    return Plan(*(np.asarray(array)[kept] for array in plan))


def _coefficients(alpha_bar: jax.Array, alpha_bar_next: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a and b of an Euler step x' = a x + b eps."""
    a = jnp.sqrt(alpha_bar_next / alpha_bar)
    return a, jnp.sqrt(1.0 - alpha_bar_next) - a * jnp.sqrt(1.0 - alpha_bar)
