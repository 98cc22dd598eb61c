"""What a way of comparing consists of. Read next: `inversion.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from invad_jax.normality.reference import Lessons
from invad_jax.scoring import Scores

OutputsFn = Callable[..., dict[str, jax.Array]]
"""(x_t (B, h, w, C), t (1,) or (B,), what else the network sees by name) -> its outputs by name."""
StatesFn = Callable[[Any, jax.Array], jax.Array]
"""(`EpsFn` or `OutputsFn`, x0 (B, h, w, C)) -> what is compared, (B, M, h, w, C) float32. Pure."""
PathFn = Callable[..., jax.Array]
"""(the same, x0 (B, h, w, C), by name what else it takes) -> the states that are visited,
(S + 1, B, h, w, C) float32, from the start on. Pure."""
CompareFn = Callable[[Any, jax.Array, int], Scores]
"""(`scoring.Reference` or None; decoded images (B, M, S, S, 3) of a paradigm that `decodes`; states
(B, M, h, w, C), image size) -> scores. Pure."""


class Paradigm(NamedTuple):
    """All that follows from the sections `inversion` and `scoring` of a config.

    Everybody else takes this value: nobody asks the config again what an image is compared with.
    """

    timesteps: tuple[int, ...]
    """At which the network is asked, once an image each."""
    states: StatesFn
    compare: CompareFn
    lessons: Lessons
    """What normal images have to teach beforehand."""
    terms: tuple[str, ...]
    """Of `config.TERMS`: what the image score adds up."""
    inverts: bool = False
    """Whether the last state is x_T."""
    asks: frozenset[str] = frozenset()
    """Which outputs of the network `states` and `path` read of an `OutputsFn`; empty: they are
    handed an `EpsFn`."""
    path: PathFn | None = None
    """How x0 is walked; None where it is not."""
    whitened: bool = True
    """Whether x0 is taken in the coordinates of normal latents, where a model has them; a method
    that knows none takes it standardised."""

    shows: frozenset[str] = frozenset()
    """What the network has to see beside x_t and t."""
    raw: bool = False
    """Whether states are compared as the encoder gives latents, not standardised."""
    decodes: bool = False
    """Whether images are compared, decoded from the states."""

    @property
    def nfe(self) -> int:
        """Evaluations of the network an image."""
        return len(self.timesteps)
