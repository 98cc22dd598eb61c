"""How alike two images are: PSNR and SSIM, as pure functions of batches.

Read next: `train_vae.py`, which reports them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

WINDOW = 11
"""Side of the window of SSIM, pixels."""
SIGMA = 1.5
"""Of its Gaussian, pixels."""
K1, K2 = 0.01, 0.03
"""Keep the quotients finite in flat places. These four are the authors' (Wang et al. 2004)."""

_LEAST_ERROR = 1e-10  # equal images: 100 dB, not infinity, which no mean survives


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio, -10 log10 of the mean squared error, in dB; higher is better.

    Args:
      a: (B, H, W, C) float32 in 0..1.
      b: the same.

    Returns:
      (B,), at most 100.

    >>> psnr(jnp.zeros((1, 4, 4, 3)), jnp.full((1, 4, 4, 3), 0.1)).round(3)
    Array([20.], dtype=float32)
    """
    error = jnp.mean(jnp.square(a - b), axis=(1, 2, 3))  # (B,)
    return -10 * jnp.log10(jnp.maximum(error, _LEAST_ERROR))


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Structural similarity (Wang et al. 2004), -1..1; 1 for equal images.

    Means, variances and covariance are weighted by a Gaussian window, which stays inside the image;
    the index is averaged over its positions and over the channels.

    Args:
      a: (B, H, W, C) float32 in 0..1; H and W at least 11.
      b: the same.

    Returns:
      (B,).
    """
    mean_a, mean_b = _windowed(a), _windowed(b)  # (B, H - 10, W - 10, C)
    # Central moments of what is left around 1/2: E[x^2] - E[x]^2 loses fewer digits so.
    a, b = a - 0.5, b - 0.5
    shifted_a, shifted_b = mean_a - 0.5, mean_b - 0.5
    variance_a = _windowed(a * a) - shifted_a**2
    variance_b = _windowed(b * b) - shifted_b**2
    covariance = _windowed(a * b) - shifted_a * shifted_b
    luminance = (2 * mean_a * mean_b + K1**2) / (mean_a**2 + mean_b**2 + K1**2)
    structure = (2 * covariance + K2**2) / (variance_a + variance_b + K2**2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _windowed(x: jax.Array) -> jax.Array:
    """Gaussian mean around every position whose window lies inside, one axis after the other."""
    gaussian = np.exp(-0.5 * np.square((np.arange(WINDOW) - WINDOW // 2) / SIGMA))
    weights = (gaussian / gaussian.sum()).astype(np.float32)
    for axis in (1, 2):
        size = x.shape[axis] - WINDOW + 1
        parts = [jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(WINDOW)]
        x = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    return x
