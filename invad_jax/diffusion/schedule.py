"""Noise levels: the forward process, and the plan of timesteps that an inversion follows.

Everything here is NumPy float64 and runs once, on the host. Read next: `inversion.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

SCHEDULES = ("linear", "scaled_linear", "cosine", "sigmoid", "given")
FLOOR = 2.0**-30
"""Stands for an alpha_bar of 0, by whose root x0_hat is divided: 1 - FLOOR is 1 in float32, so the
noise is whole, and the quotient keeps some three digits."""


class Plan(NamedTuple):
    """The steps of one inversion: arrays, of NumPy or JAX; a pytree, so it can be an argument of a
    compiled function."""

    timesteps: Any
    """(S,) int32, within 0..T-1: where the network is asked. Rising for an inversion, falling for a
    reconstruction."""
    alpha_bar: Any
    """(S,) float32: alpha_bar at `timesteps`."""
    alpha_bar_next: Any
    """(S,) float32: alpha_bar that each step leads to."""


def linear_alpha_bar(num_timesteps: int, beta_start: float, beta_end: float) -> np.ndarray:
    """alpha_bar_t = prod_{s <= t} (1 - beta_s) for linear betas (Ho et al. 2020, section 4).

    Returns:
      (T,) float64, falling from almost 1.
    """
    betas = np.linspace(beta_start, beta_end, num_timesteps, dtype=np.float64)
    return np.cumprod(1.0 - betas)


def alpha_bar_schedule(
    schedule: str, num_timesteps: int, betas: Sequence[float] = ()
) -> np.ndarray:
    """alpha_bar of a named family of betas.

    - `linear`: beta linear from first to last (Ho et al. 2020)
    - `scaled_linear`: its square root linear (latent diffusion, Rombach et al. 2022)
    - `cosine`: alpha_bar a squared cosine, betas at most 0.999, none given
      (Nichol & Dhariwal 2021, equation 17)
    - `sigmoid`: a logistic curve over -6..6, scaled to first..last (GeoDiff, Xu et al. 2022)
    - `given`: the betas as they are

    Args:
      schedule: one of the names above.
      num_timesteps: T.
      betas: first and last of the family, which `cosine` does not look at; all T of `given`.

    Returns:
      (T,) float64, falling from almost 1. A 0, which no inversion could start from, is `FLOOR`.

    Raises:
      ValueError: an unknown schedule.
    """
    if schedule == "linear":
        first, last = betas
        alpha_bar = linear_alpha_bar(num_timesteps, first, last)
    elif schedule == "cosine":
        u = np.arange(num_timesteps + 1) / num_timesteps
        level = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2  # (T + 1,)
        alpha_bar = np.cumprod(np.maximum(level[1:] / level[:-1], 0.001))
    elif schedule == "scaled_linear":
        first, last = betas
        roots = np.linspace(first**0.5, last**0.5, num_timesteps)
        alpha_bar = np.cumprod(1.0 - roots**2)
    elif schedule == "sigmoid":
        first, last = betas
        rise = 1.0 / (1.0 + np.exp(-np.linspace(-6.0, 6.0, num_timesteps)))
        alpha_bar = np.cumprod(1.0 - (first + rise * (last - first)))
    elif schedule == "given":
        alpha_bar = np.cumprod(1.0 - np.asarray(betas, np.float64))
    else:
        raise ValueError(f"schedule={schedule!r} must be one of {', '.join(SCHEDULES)}")
    return np.where(alpha_bar == 0.0, FLOOR, alpha_bar)


def with_zero_terminal_snr(alpha_bar: np.ndarray) -> np.ndarray:
    """Shifts and scales sqrt(alpha_bar), so that it ends at 0 and begins as it did, (T,) float64.

    Source: Lin et al. 2024, algorithm 1.
    """
    root = np.sqrt(alpha_bar)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def spaced_timesteps(spacing: str, num_steps: int, num_timesteps: int) -> np.ndarray:
    """S rising timesteps out of 0..T-1, as the named spacing lays them.

    With u_i = i / (S - 1) for i = 0..S-1, rounded half to even:

    - `linspace`: (T - 1) u, as published code does: 0, 500, 999 for S = 3
    - `paper`: (T - 1) (i + 1) / S: 333, 666, 999 for S = 3
    - `early`: a tenth of `paper`: 100 for S = 1
    - `quadratic`: (T - 1) u^2
    - `cubic`: (T - 1) u^3
    - `exponential`: T^u - 1

    S = 1 has u = 0. Where rounding makes neighbours equal, the later one moves
    up by the least that keeps all S distinct.

    Args:
      spacing: one of the names above.
      num_steps: S, 1..T.
      num_timesteps: T.

    Returns:
      (S,) int32.

    Raises:
      ValueError: an unknown spacing, or S outside 1..T.

    >>> spaced_timesteps("linspace", 3, 1000).tolist()
    [0, 500, 999]
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"num_steps={num_steps} must lie in 1..{num_timesteps}")
    last, steps = num_timesteps - 1, np.arange(num_steps)
    u = steps / max(num_steps - 1, 1)
    positions = {
        "linspace": last * u,
        "paper": last * (steps + 1) / num_steps,
        "early": 0.1 * last * (steps + 1) / num_steps,
        "quadratic": last * u**2,
        "cubic": last * u**3,
        "exponential": num_timesteps**u - 1,
    }
    if spacing not in positions:
        raise ValueError(f"spacing={spacing!r} must be one of {', '.join(positions)}")
    return _distinct(np.rint(positions[spacing]).astype(np.int64), last).astype(np.int32)


def make_plan(alpha_bar: np.ndarray, timesteps: np.ndarray, final_alpha_bar: float = 0.0) -> Plan:
    """The levels that an inversion passes: at each timestep, and the one it leads to.

    Args:
      alpha_bar: (T,) float64.
      timesteps: (S,) rising integers.
      final_alpha_bar: level after the last step; 0 as published, then x_T = eps(x, tau_S).
    """
    levels = alpha_bar[timesteps]
    return Plan(
        timesteps=np.asarray(timesteps, np.int32),
        alpha_bar=levels.astype(np.float32),
        alpha_bar_next=np.append(levels[1:], final_alpha_bar).astype(np.float32),
    )


def _distinct(timesteps: np.ndarray, last: int) -> np.ndarray:
    """Makes a non-falling sequence strictly rising within 0..last, moving entries up if it can."""
    offsets = np.arange(len(timesteps))
    rising = np.maximum.accumulate(timesteps - offsets) + offsets
    return np.minimum(rising, last - offsets[::-1])
