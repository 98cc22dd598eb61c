"""Anomaly maps as other detectors' own code makes them, of what their networks restored.

They fix clips, windows and weights by hand, and most need images decoded from latents. So they
stand beside the comparisons of the paradigms, which are made in the latents and calibrated on
normal images: to repeat a published number, not to make one here. All filters are linear and
separable: a matrix for each side.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def deco_diff(
    decoded: jax.Array, decoded_restored: jax.Array, latent: jax.Array, restored: jax.Array
) -> dict[str, jax.Array]:
    """DeCo-Diff's comparison in two spaces.

    Args:
      decoded: (B, S, S, 3) in [-1, 1], decoded from the latents of an image.
      decoded_restored: the same from what was restored.
      latent: (B, h, h, C).
      restored: (B, h, h, C).

    Returns:
      (B, S, S) each: `image` and `latent` discrepancy, their `arithmetic` and (reported)
      `geometric` mean, whose largest value is the image score.
    """
    size = decoded.shape[1]
    of_image = jnp.max(jnp.abs(decoded_restored - decoded), axis=-1)
    of_latent = jnp.mean(jnp.abs(restored - latent), axis=-1)
    image = filtered(jnp.clip(of_image, 0.0, 0.4) * 2.5, gaussian(size, 3.0))
    blurred = filtered(jnp.clip(of_latent, 0.0, 0.2) * 5.0, gaussian(latent.shape[1], 1.0))
    resized = filtered(blurred, mirrored_resize(latent.shape[1], size))
    return {
        "image": image,
        "latent": resized,
        "arithmetic": (image + resized) / 2.0,
        "geometric": jnp.sqrt(image * resized),
    }


def mad_ad(decoded: jax.Array, decoded_restored: jax.Array) -> jax.Array:
    """MAD-AD's map (B, S, S) of decoded images (B, S, S, 3)."""
    difference = jnp.max(jnp.abs(decoded_restored - decoded), axis=-1)
    return filtered(jnp.clip(difference, 0.0, 0.25) * 4.0, gaussian(decoded.shape[1], 5.0))


def transfusion(
    image: jax.Array, restored: jax.Array, probability: jax.Array, levels: int = 20
) -> jax.Array:
    """TransFusion's map (B, S, S), whose largest value is the image score.

    Args:
      image: (B, S, S, 3) in [-1, 1].
      restored: the same.
      probability: (S', B, S, S, 1), of the mask at each step.
      levels: of the transparency, 0 and 1 included.
    """
    said = jnp.sum(probability[..., 0], axis=0) / (levels - 1)
    image, restored = (jnp.clip(x / 2.0 + 0.5, 0.0, 1.0) for x in (image, restored))
    error = jnp.mean(jnp.square(image - restored), axis=-1)
    window = box(image.shape[1], 7)
    return 0.95 * filtered(said, window) + 0.05 * filtered(error, window)


def diad(
    features: Sequence[jax.Array], restored: Sequence[jax.Array], size: int
) -> tuple[jax.Array, jax.Array]:
    """DiAD's map (B, S, S) and image score (B,).

    Args:
      features: (B, h, h, C) of an image, a stage each.
      restored: of what was restored.
      size: S.
    """
    total = jnp.zeros((len(features[0]), size, size))
    for a, b in zip(features, restored, strict=True):
        total += filtered(unlike(a, b), resize_to_corners(a.shape[1], size))
    smooth = filtered(total, gaussian(size, 5.0))
    return smooth, jnp.max(filtered(smooth, repeated_mean(size, 8, 8)), axis=(1, 2))


def unlike(a: jax.Array, b: jax.Array) -> jax.Array:
    """1 - the cosine of two vectors at each position, (B, h, w, C) twice -> (B, h, w)."""
    lengths = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return 1.0 - jnp.sum(a * b, axis=-1) / jnp.maximum(lengths, 1e-8)  # as torch has it


def filtered(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    """x (B, n, n) with `matrix` (m, n) over either side: (B, m, m)."""
    weights = jnp.asarray(matrix, jnp.float32)
    return jnp.einsum("im,bmn,jn->bij", weights, x, weights, precision="highest")


def gaussian(n: int, sigma: float) -> np.ndarray:
    """(n, n): as SciPy's `gaussian_filter`, cut off at 4 sigma, mirrored with its edge."""
    radius = int(4.0 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-(offsets**2) / (2.0 * sigma**2))
    return _gathered(n, offsets, weights / weights.sum(), edge_twice=True)


def box(n: int, width: int) -> np.ndarray:
    """(n, n): the mean of an odd number of positions, zeros outside."""
    places = np.arange(n)
    return (np.abs(places[:, None] - places[None]) <= width // 2) / width


def repeated_mean(n: int, width: int, times: int) -> np.ndarray:
    """(n - times (width - 1), n): means of neighbours, again and again, within the sides alone."""
    matrix = np.eye(n)
    for _ in range(times):
        rows = [matrix[i : i + width].mean(0) for i in range(len(matrix) - width + 1)]
        matrix = np.stack(rows)
    return matrix


def mirrored_resize(n: int, m: int) -> np.ndarray:
    """(m, n): bilinear, half-pixel centres, mirrored at the edge without it, as scikit-image."""
    places = (np.arange(m) + 0.5) * n / m - 0.5
    first = np.floor(places).astype(int)
    share = places - first
    matrix = np.zeros((m, n))
    for neighbour, weight in ((first, 1.0 - share), (first + 1, share)):
        np.add.at(matrix, (np.arange(m), _folded(neighbour, n, edge_twice=False)), weight)
    return matrix


def resize_to_corners(n: int, m: int) -> np.ndarray:
    """(m, n): bilinear, the corners of either grid upon each other (torch: align_corners)."""
    places = np.arange(m) * (n - 1) / (m - 1)
    first = np.minimum(np.floor(places).astype(int), n - 2)
    matrix = np.zeros((m, n))
    matrix[np.arange(m), first] = 1.0 - (places - first)
    matrix[np.arange(m), first + 1] += places - first
    return matrix


def _gathered(n: int, offsets: np.ndarray, weights: np.ndarray, edge_twice: bool) -> np.ndarray:
    matrix = np.zeros((n, n))
    for offset, weight in zip(offsets, weights, strict=True):
        np.add.at(matrix, (np.arange(n), _folded(np.arange(n) + offset, n, edge_twice)), weight)
    return matrix


def _folded(index: np.ndarray, n: int, edge_twice: bool) -> np.ndarray:
    """Positions outside of 0..n-1, mirrored into it: the edge itself once or twice."""
    period = 2 * n if edge_twice else max(2 * n - 2, 1)
    index = index % period
    return np.where(index < n, index, (2 * n - 1 if edge_twice else 2 * n - 2) - index)
