"""invad_jax: image anomaly detection by diffusion inversion, in JAX.

Importing the package touches no device. Read `eval`, `detector`, `diffusion.inversion`, `scoring`
and `metrics`, in that order, for the whole method.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from invad_jax.version import __version__

if TYPE_CHECKING:
    from invad_jax.inference.predictor import load

if sys.argv[:1] == ["-m"] and __name__ in (word.partition(".")[0] for word in sys.orig_argv):
    # A command of ours is being imported, which takes seconds.
    import signal

    from invad_jax.runtime import interrupts

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupts.leave)

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`invad_jax.load`, imported when first asked for, so that the package itself stays light."""
    if name == "load":
        from invad_jax.inference.predictor import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
