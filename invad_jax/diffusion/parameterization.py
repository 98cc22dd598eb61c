"""What a network predicts, turned into the noise that everything here works with.

With x_t = sqrt(ab) x0 + sqrt(1 - ab) noise, a network may predict the noise (`eps`), the clean
`sample`, the velocity `v` = sqrt(ab) noise - sqrt(1 - ab) x0 (Salimans & Ho 2022, section 4), or
the `deviation` (x_t - x0) / sqrt(1 - ab) (Beizaee et al. 2025). Each says the same of x_t, so an
eps is always one line away. Read next: `inversion.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

OUTPUT_OF = {"eps": "eps", "v": "v", "sample": "x0", "deviation": "deviation"}
"""What a network predicts -> the name of that output."""


def eps_from_v(x_t: jax.Array, v: jax.Array, alpha_bar: jax.Array) -> jax.Array:
    """eps = sqrt(ab) v + sqrt(1 - ab) x_t.

    Args:
      x_t: (B, h, w, C).
      v: (B, h, w, C).
      alpha_bar: in [0, 1], broadcasts against x_t.
    """
    return jnp.sqrt(alpha_bar) * v + jnp.sqrt(1.0 - alpha_bar) * x_t


def eps_from_sample(x_t: jax.Array, x0_hat: jax.Array, alpha_bar: jax.Array) -> jax.Array:
    """eps = (x_t - sqrt(ab) x0_hat) / sqrt(1 - ab).

    Args:
      x_t: (B, h, w, C).
      x0_hat: (B, h, w, C).
      alpha_bar: in [0, 1), broadcasts against x_t.
    """
    return (x_t - jnp.sqrt(alpha_bar) * x0_hat) / jnp.sqrt(1.0 - alpha_bar)


def eps_from_deviation(x_t: jax.Array, deviation: jax.Array, alpha_bar: jax.Array) -> jax.Array:
    """eps = deviation + (1 - sqrt(ab)) / r x0_hat; x0_hat = x_t - r deviation, r = sqrt(1 - ab).

    Args:
      x_t: (B, h, w, C).
      deviation: (B, h, w, C).
      alpha_bar: in [0, 1), broadcasts against x_t.
    """
    spread = jnp.sqrt(1.0 - alpha_bar)
    x0_hat = x_t - spread * deviation
    return deviation + (1.0 - jnp.sqrt(alpha_bar)) / spread * x0_hat


def to_eps(
    prediction: str, x_t: jax.Array, output: jax.Array, t: jax.Array, alpha_bar: jax.Array
) -> jax.Array:
    """The eps that a network's output stands for.

    Args:
      prediction: `eps`, `v`, `sample` or `deviation`: what the output is.
      x_t: (B, h, w, C), what the network was given.
      output: (B, h, w, C), what it gave.
      t: (B,) or (1,) integers, when.
      alpha_bar: (T,) float32, the whole schedule.

    Raises:
      ValueError: another prediction.

    >>> x_t, zeros = jnp.full((1, 1, 1, 1), 0.6), jnp.zeros((1, 1, 1, 1))
    >>> float(to_eps("sample", x_t, zeros, jnp.array([0]), jnp.array([0.64])).squeeze())
    1.0
    """
    if prediction == "eps":
        return output
    level = alpha_bar[t][:, None, None, None]  # (B or 1, 1, 1, 1)
    if prediction == "v":
        return eps_from_v(x_t, output, level)
    if prediction == "sample":
        return eps_from_sample(x_t, output, level)
    if prediction == "deviation":
        return eps_from_deviation(x_t, output, level)
    raise ValueError(f"prediction={prediction!r} must be one of eps, v, sample, deviation")
