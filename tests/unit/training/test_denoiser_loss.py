"""What `train.objective=diffusion` minimises, against sums written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.detector import LatentStats
from tests.losses import diffusion_loss

ALPHA_BAR = jnp.linspace(0.999, 0.01, 20)
STATS = LatentStats(jnp.array([1.0, 0.0, -1.0]), jnp.array([2.0, 1.0, 0.5]))
BATCH = {"latent": jax.random.normal(jax.random.key(1), (6, 2, 2, 3))}


def predict(params, x_t, t):
    del t
    return params * x_t


@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize("of", ["eps", "v"])
def test_the_mean_squared_error_of_what_is_predicted(of, standardised):
    loss_fn = diffusion_loss(predict, ALPHA_BAR, of, standardised)
    drawn = loss_fn.draw(BATCH, jax.random.key(0))
    loss = float(loss_fn.given(0.3, STATS, drawn)[0])
    x0, noise = (np.asarray(drawn[name], np.float64) for name in ("latent", "noise"))
    if not standardised:
        x0 = (x0 - np.asarray(STATS.mean)) / np.asarray(STATS.std)
    level = np.asarray(ALPHA_BAR, np.float64)[drawn["t"]].reshape(-1, 1, 1, 1)
    x_t = np.sqrt(level) * x0 + np.sqrt(1 - level) * noise
    target = noise if of == "eps" else np.sqrt(level) * noise - np.sqrt(1 - level) * x0
    assert loss == pytest.approx(np.mean((0.3 * x_t - target) ** 2), rel=1e-5)  # float32
