"""What a network is trained to say, where that is not the noise of a diffusion.

Read next: `deco_diff.py`, one of them; `training/step.py`, where its loss becomes a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from invad_jax.paradigms.paradigm import OutputsFn

Drawn = dict[str, jax.Array]
"""Arrays with a row an image."""
Channels = tuple[tuple[str, int], ...]
"""Names, and how many channels each has; 0: as many as the latents."""


class Objective(NamedTuple):
    """A loss in two parts, so that a batch can be taken in pieces and mean the same."""

    draw: Callable[[jax.Array, jax.Array], Drawn]
    """(latents of a whole batch (B, h, w, C), rng) -> all that is random; what is called
    `latent...` are latents too, and is standardised with them."""
    loss: Callable[[OutputsFn, jax.Array, Drawn], jax.Array]
    """(the network, x0 (B, h, w, C), rows of what was drawn) -> (B,). Nothing random."""
    says: Channels
    """Outputs that the network needs to have."""
    sees: Channels = ()
    """What it is shown beside x_t and t. For a `label` the batches say the category of each image,
    (B,) int32, and so does what is drawn."""
    copies: tuple[str, ...] = ()
    """Names of as many networks, the one that is evaluated first; all start as `train.teacher`. The
    loss asks each by `of`, and with `held` lets no gradient reach its parameters."""
    judges: bool = False
    """Whether they have a layer that tells real images, which a loss asks by `judged`."""
