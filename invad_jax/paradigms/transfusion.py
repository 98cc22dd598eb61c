"""TransFusion (Fucka et al., ECCV 2024): transparency is the diffusion variable. A network says
what is anomalous, what would be normal and where, and the anomaly is faded out there, step by step.

As published, the level at which training shows no mask is never asked, and the sum of the masks is
divided by the number of levels all the same.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import Config
from invad_jax.errors import UserError
from invad_jax.paradigms.corruption import foreign_patches, highest, smooth_noise
from invad_jax.paradigms.objective import Drawn, Objective
from invad_jax.paradigms.paradigm import OutputsFn, Paradigm
from invad_jax.paradigms.restoring import mean_square, of_difference, restoring
from invad_jax.paradigms.walk import euler, states_of

SHARES = (0.02, 0.3)
"""Of the positions of an image, that an anomaly takes."""
FOCAL_WEIGHT, FOCAL_ALPHA = 5.0, 0.25
WINDOW, WINDOW_SIGMA = 11, 1.5
"""Of the similarity of two images, positions."""


def paradigm(config: Config) -> Paradigm:
    """Fading out, compared by the squared change a channel."""
    levels = config.diffusion.num_timesteps
    if config.inversion.num_steps != levels - 2:
        raise UserError(
            f"inversion.num_steps={config.inversion.num_steps}: this detector goes through all of "
            f"its levels, {levels - 2}"
        )
    beta = beta_of(levels)
    timesteps = np.arange(levels - 2, 0, -1)

    def path(outputs_fn: OutputsFn, x0: jax.Array, **given: Any) -> jax.Array:
        def step(carried: tuple[jax.Array, jax.Array], level: Any) -> Any:
            (x, mask), (t, now, then) = carried, level
            found = outputs_fn(x, t[None], mask=mask, **given)
            mask = (found["mask_logits"] > 0).astype(x.dtype)
            return euler(x, velocity(found, mask, now), now, then), mask

        start = x0, jnp.zeros((*x0.shape[:3], 1))
        steps = timesteps.astype(np.int32), beta[timesteps], beta[timesteps - 1]
        return states_of(step, start, steps, lambda carried: carried[0])

    asks = frozenset({"noise", "mean", "mask_logits"})
    return restoring(config, path, timesteps.tolist(), asks, of_difference(mean_square))


def beta_of(levels: int) -> np.ndarray:
    """How opaque an anomaly is at each level, (T,) float32 from 0 to 1."""
    return (np.arange(levels) / (levels - 1)).astype(np.float32)


def velocity(found: dict[str, jax.Array], mask: jax.Array, beta: jax.Array) -> jax.Array:
    """What becomes of x as beta rises: where the mask is 1, the normal image gives way to the
    anomaly, of which the network says `noise` = beta times it."""
    return mask * (found["noise"] / beta - found["mean"])


def objective(config: Config) -> Objective:
    """Three outputs, and the step that they make, for images half of which have a pasted anomaly.

    The anomalies are patches of other training images in their place, with other contrasts: no
    texture from outside is seen.
    """
    levels = config.diffusion.num_timesteps
    beta = jnp.asarray(beta_of(levels))

    def draw(latent: jax.Array, rng: jax.Array) -> Drawn:
        of_t, of_blobs, of_share, of_last, of_anomaly = jax.random.split(rng, 5)
        B = len(latent)
        t = jax.random.randint(of_t, (B,), 1, levels)
        blobs = smooth_noise(of_blobs, latent.shape[:3])
        share = jax.random.uniform(of_share, (B,), minval=SHARES[0], maxval=SHARES[1])
        share = jnp.where(jnp.arange(B) % 2 == 0, share, 0.0)
        last = share * _last_share(of_last, B)
        return {
            "t": t,
            "mask": highest(blobs, share),
            "last_mask": highest(blobs, jnp.where(t < levels - 1, last, 0.0)),
            "latent_anomaly": foreign_patches(of_anomaly, latent),
        }

    def loss(outputs_fn: OutputsFn, x0: jax.Array, drawn: Drawn) -> jax.Array:
        t, mask = drawn["t"], drawn["mask"]
        anomaly = mask * drawn["latent_anomaly"]
        x_t = faded(x0, mask, anomaly, beta[t])
        found = outputs_fn(x_t, t, mask=drawn["last_mask"])
        terms = losses(found, x0, x_t, mask, anomaly, beta[t], beta[t - 1])
        return jnp.sum(jnp.stack(list(terms.values())), axis=0)

    says = (("noise", 0), ("mean", 0), ("mask_logits", 1))
    return Objective(draw, loss, says, sees=(("mask", 1),))


def _last_share(rng: jax.Array, count: int) -> jax.Array:
    """How much of an anomaly the network is shown as its last mask, relative to all of it: nothing,
    less, all, or more; as often each."""
    of_kind, of_amount = jax.random.split(rng)
    amount = jax.random.uniform(of_amount, (count,))
    kinds = jnp.stack([jnp.zeros(count), amount, jnp.ones(count), 1.0 + amount])  # (4, B)
    chosen = jax.random.randint(of_kind, (count,), 0, len(kinds))
    return jnp.take_along_axis(kinds, chosen[None], axis=0)[0]


def faded(x0: jax.Array, mask: jax.Array, anomaly: jax.Array, beta: jax.Array) -> jax.Array:
    """x0 with an anomaly (0 outside the mask) of opacity beta (B,)."""
    return x0 + beta[:, None, None, None] * (anomaly - mask * x0)


def losses(
    found: dict[str, jax.Array],
    x0: jax.Array,
    x_t: jax.Array,
    mask: jax.Array,
    anomaly: jax.Array,
    beta: jax.Array,
    beta_next: jax.Array,
) -> dict[str, jax.Array]:
    """The published terms, (B,) each; their sum is minimised.

    Args:
      found: outputs of the network for x_t.
      x0, x_t, anomaly: (B, h, w, C); the anomaly is 0 outside the mask.
      mask: (B, h, w, 1), 1 where it is.
      beta, beta_next: (B,), opacities now and one level further down.
    """
    now, then = beta[:, None, None, None], beta_next[:, None, None, None]
    logits, mean = found["mask_logits"], found["mean"]
    predicted = (logits > 0).astype(x_t.dtype)
    guessed = euler(x_t, velocity(found, predicted, now), now, then)
    truth = {"noise": now * anomaly, "mean": x0}
    right = euler(x_t, velocity(truth, mask, now), now, then)
    return {
        "noise": _mean(jnp.square(found["noise"] - now * anomaly)),
        "mask": FOCAL_WEIGHT * _mean(focal(logits, mask))
        + 0.5 * _mean(jnp.square(jax.nn.sigmoid(logits) - mask)),  # smooth L1 below 1
        "mean": 1.0 - similarity(mean, x0) + _mean(jnp.abs(mean - x0)),
        "step": _mean(jnp.square(guessed - right)),
    }


def focal(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Focal loss of each position (Lin et al. 2017), alpha 0.25, gamma 2."""
    p = jax.nn.sigmoid(logits)
    entropy = jax.nn.softplus(logits) - logits * mask
    right = p * mask + (1.0 - p) * (1.0 - mask)
    weight = FOCAL_ALPHA * mask + (1.0 - FOCAL_ALPHA) * (1.0 - mask)
    return weight * jnp.square(1.0 - right) * entropy


def similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    """Structural similarity (Wang et al. 2004), (B, h, w, C) twice -> (B,).

    Gaussian windows, zeros outside. As published, the range of the numbers is 2 where some of `a`
    are below -0.5, else 1.
    """
    rows, columns = (_window(n) for n in a.shape[1:3])

    def mean(x: jax.Array) -> jax.Array:
        # differences of squares: the shorter products of accelerators would leave nothing
        return jnp.einsum("ip,bpqc,jq->bijc", rows, x, columns, precision="highest")

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    both = mean(a * b) - mean_a * mean_b
    span = jnp.where(jnp.min(a) < -0.5, 2.0, 1.0)
    small, smaller = (0.03 * span) ** 2, (0.01 * span) ** 2
    above = (2 * mean_a * mean_b + smaller) * (2 * both + small)
    return _mean(above / ((mean_a**2 + mean_b**2 + smaller) * (var_a + var_b + small)))


def _window(n: int) -> jax.Array:
    """(n, n): the mean of neighbours under a Gaussian, zeros outside."""
    offsets = np.subtract.outer(np.arange(n), np.arange(n))
    weights = np.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2)) * (abs(offsets) <= WINDOW // 2)
    whole = np.exp(-(np.arange(-(WINDOW // 2), WINDOW // 2 + 1) ** 2) / (2 * WINDOW_SIGMA**2))
    return jnp.asarray(weights / whole.sum(), jnp.float32)


def _mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=(1, 2, 3))
