"""Several networks of one kind in one tree of parameters; the first is the one that counts.

For trainings in which networks teach each other, one of them as a judge too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Copies(nn.Module):
    """(x_t, t, the name of one, what it sees) -> its outputs."""

    build: Callable[[], nn.Module]
    names: tuple[str, ...]
    judges: bool = False
    """Whether there is a further layer, which tells from what a network sees and says of a position
    whether the image is a real one."""

    def setup(self) -> None:
        """The parameters of each lie under its name."""
        self.cores = {name: self.build().copy(name=name) for name in self.names}
        if self.judges:
            self.verdict = nn.Dense(1, kernel_init=nn.initializers.zeros)

    def __call__(
        self,
        x_t: jax.Array,
        t: jax.Array,
        of: str = "",
        held: bool = False,
        judged: bool = False,
        **given: jax.Array,
    ) -> Any:
        """See the class.

        Args:
          x_t: (B, h, w, C).
          t: (B,) or (1,).
          of: which; default the first.
          held: no gradient reaches its parameters, though one passes through it.
          judged: says `x0` and `real`, the logit (B, h, w, 1) that a position is of a real image.
          **given: what else it sees.
        """
        of = of or self.names[0]
        if self.is_initializing():
            for name in self.names:
                said = self._say(x_t, t, name, self.judges, given)
            return said

        def say(copies: Copies, x_t: jax.Array, t: jax.Array) -> Any:
            return copies._say(x_t, t, of, judged, given)

        if not held:
            return say(self, x_t, t)
        return nn.map_variables(
            say,
            "params",
            trans_in_fn=lambda params: jax.tree.map(jax.lax.stop_gradient, params),
        )(self, x_t, t)

    def _say(
        self, x_t: jax.Array, t: jax.Array, of: str, judged: bool, given: dict[str, jax.Array]
    ) -> Any:
        said = self.cores[of](x_t, t, **given)
        if not judged:
            return said
        return {"x0": said, "real": self.verdict(jnp.concatenate([x_t, said], axis=-1))}
