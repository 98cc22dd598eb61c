"""What a network is trained to say.

Read next: `inversion.py`, the noise of a diffusion or v; `deco_diff.py`, another detector's;
`training/step.py`, where its loss becomes a step.
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


def drawing_noise(num_timesteps: int) -> Callable[[jax.Array, jax.Array], Drawn]:
    """A `draw` of what every diffusion takes: t (B,), uniform on 0..T-1, and noise (B, h, w, C)."""

    def draw(latent: jax.Array, rng: jax.Array) -> Drawn:
        of_t, of_noise = jax.random.split(rng)
        return {
            "t": jax.random.randint(of_t, latent.shape[:1], 0, num_timesteps),
            "noise": jax.random.normal(of_noise, latent.shape),
        }

    return draw
