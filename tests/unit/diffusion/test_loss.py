"""The noise-prediction loss."""

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.diffusion.loss import eps_loss, perturb, v_loss

ALPHA_BAR = jnp.linspace(0.99, 0.01, 10)


def test_perfect_prediction_costs_nothing_and_zero_costs_the_noise():
    x0, noise = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
    t = jnp.array([0, 5, 9])
    assert np.all(np.asarray(eps_loss(lambda x, t: noise, x0, t, noise, ALPHA_BAR)) == 0)
    loss = eps_loss(lambda x, t: jnp.zeros_like(x), x0, t, noise, ALPHA_BAR)
    # Sums of 32 float32 terms.
    np.testing.assert_allclose(loss, np.mean(np.square(noise), axis=(1, 2, 3)), rtol=1e-6)


def test_each_sample_has_its_own_level():
    x0, noise = jax.random.normal(jax.random.key(1), (2, 3, 4, 4, 2))
    t = np.array([9, 0, 4])
    x_t = perturb(x0, noise, ALPHA_BAR[t])
    for i in range(3):
        ab = float(ALPHA_BAR[t[i]])
        expected = np.sqrt(ab) * x0[i] + np.sqrt(1 - ab) * noise[i]
        np.testing.assert_allclose(x_t[i], expected, rtol=1e-5, atol=1e-6)  # float32 rounding


def test_the_best_v_of_white_data_is_nothing_and_costs_one():
    x0, noise = jax.random.normal(jax.random.key(2), (2, 4000, 4, 4, 2))
    t = jnp.arange(4000) % 10
    loss = v_loss(lambda x, t: jnp.zeros_like(x), x0, t, noise, ALPHA_BAR)
    assert abs(float(jnp.mean(loss)) - 1) < 0.01  # 128,000 squares: 0.4 %
    # No linear function of x_t does better.
    for slope in (-0.1, 0.1):
        worse = v_loss(lambda x, t, slope=slope: slope * x, x0, t, noise, ALPHA_BAR)
        assert float(jnp.mean(worse)) > float(jnp.mean(loss))
