"""Whether this machine's jaxlib computes what it is asked to, where a release is known not to."""

from __future__ import annotations

import functools
import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.runtime.log import log

SUSPECT_JAXLIB = ("0.10.2",)
"""Wrong on CPU, without a word, for a matrix-vector product that is reduced (jax issue 39103)."""
ROWS = 2**15 + 1
"""The fewest at which it shows in float32."""


@functools.cache
def warn_if_wrong() -> None:
    """Warns of a jaxlib whose results are wrong. Compiles nothing on any other release."""
    version = importlib.metadata.version("jaxlib")
    if version in SUSPECT_JAXLIB and jax.default_backend() == "cpu" and not reduces_rightly():
        log.warning(
            "jaxlib %s computes wrong values on this machine (jax issue 39103): install another, "
            "such as jax==0.10.1 or a newer one; nothing it gives can be trusted",
            version,
        )


def reduces_rightly() -> bool:
    """Compares the program of the issue with NumPy."""
    x = np.zeros((ROWS, 3), np.float32)
    x[:, 0] = np.arange(ROWS)
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(x)  # (ROWS,)
    return bool(np.allclose(squares, x[:, 0] ** 2, rtol=1e-6))
