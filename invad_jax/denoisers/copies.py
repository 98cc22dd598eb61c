"""Several networks of one kind in one tree of parameters; the first is the one that counts.

For trainings in which networks teach each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax


class Copies(nn.Module):
    """(x_t, t, the name of one, what it sees) -> its outputs."""

    build: Callable[[], nn.Module]
    names: tuple[str, ...]

    def setup(self) -> None:
        """The parameters of each lie under its name."""
        self.cores = {name: self.build().copy(name=name) for name in self.names}

    def __call__(
        self, x_t: jax.Array, t: jax.Array, of: str = "", held: bool = False, **given: jax.Array
    ) -> Any:
        """See the class.

        Args:
          x_t: (B, h, w, C).
          t: (B,) or (1,).
          of: which; default the first.
          held: no gradient reaches its parameters, though one passes through it.
          **given: what else it sees.
        """
        if self.is_initializing():
            for core in self.cores.values():
                core(x_t, t)
        core = self.cores[of or self.names[0]]
        if not held:
            return core(x_t, t, **given)
        ask = nn.map_variables(
            lambda core, x_t, t: core(x_t, t, **given),
            "params",
            trans_in_fn=lambda params: jax.tree.map(jax.lax.stop_gradient, params),
        )
        return ask(core, x_t, t)
