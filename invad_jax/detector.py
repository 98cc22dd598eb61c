"""The method as one pure function: encode, whiten, invert, score.

What is here is what is trained, compiled, exported and served; nothing scores an image in another
way. What is compared with what, `paradigms/` says. Read next: `diffusion/inversion.py`, then
`scoring.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from invad_jax.coordinates import Coordinates, Neighbourhood, whiten
from invad_jax.geometry import filled
from invad_jax.scoring import Reference, Scores, without_maps

Params = Any
"""A pytree of arrays."""


class LatentStats(NamedTuple):
    """Per-channel statistics that bring latents to mean 0 and variance 1."""

    mean: jax.Array
    """(C,) float32."""
    std: jax.Array
    """(C,) float32, positive."""


class DetectorVariables(NamedTuple):
    """Every array that a detector needs."""

    encoder: Params
    denoiser: Params
    latent_stats: LatentStats
    reference: Reference | None = None
    """What normal images taught for this way of comparing, if anything."""
    coordinates: Coordinates | None = None
    """In which normal latents are N(0, I), where the network was trained in them."""
    decoder: Params = None
    """Of the encoder, the way back, where images are compared."""


class Detector(NamedTuple):
    """The pure functions of one detector; holds no array."""

    encode: Callable[[Params, jax.Array], jax.Array]
    """(encoder variables, image (B, H, W, 3) uint8) -> latent (B, h, w, C) float32."""
    denoise: Callable[..., Any]
    """(denoiser params, x_t (B, h, w, C), t (1,) or (B,)) -> eps (B, h, w, C) float32; or, where
    `states` asks for more than noise, all that the network says."""
    states: Callable[[Any, jax.Array], jax.Array]
    """(`denoise` of the parameters, x0 (B, h, w, C)) -> what is compared, (B, M, h, w, C)
    float32."""
    compare: Callable[[Any, jax.Array, int], Scores]
    """(reference, or images where there is a `decode`; states, image size) -> scores."""
    image_size: int
    inverts: bool = True
    """Whether the last state is x_T."""
    whitened: bool = False
    """Whether x0 is taken in the coordinates of normal latents, if there are any."""
    where: Neighbourhood = Neighbourhood(radius=0, images=1)
    """In which the coordinates look for normal latents."""
    label: Callable[[Reference, jax.Array], jax.Array] | None = None
    """(reference, x0 (B, h, w, C)) -> the class (B,) that the network is told, where inferred."""
    raw: bool = False
    """Whether states are compared in the encoder's own units."""
    decode: Callable[[Params, jax.Array], jax.Array] | None = None
    """(decoder variables, latent (B, h, w, C)) -> image (B, S, S, 3), where images are compared."""

    def predict(self, variables: DetectorVariables, image: jax.Array) -> Scores:
        """Scores images.

        Args:
          variables: all arrays.
          image: (B, H, W, 3) uint8, RGB, H = W = image_size; a fourth channel is above 0 where the
            image lies that the square is filled up of.
        """
        scores = self.score_latents(variables, self.encode(variables.encoder, image))
        extent = filled(image) if image.shape[-1] == 4 else None
        return scores._replace(x_T=None, extent=extent)

    def predict_without_maps(self, variables: DetectorVariables, image: jax.Array) -> Scores:
        """As `predict`, without `anomaly_map`: what decides, and what `data.maps` draws from."""
        return without_maps(self.predict(variables, image))

    def score_latents(self, variables: DetectorVariables, latent: jax.Array) -> Scores:
        """Scores latents as they come from the encoder, (B, h, w, C) float32."""
        states, component = self._states(variables, latent)  # (B, M, h, w, C)
        scores = self.judge(variables, states)
        if component is not None and variables.reference is None:
            scores = scores._replace(component=component)
        return scores._replace(x_T=states[:, -1] if self.inverts else None)

    def scored_states(self, variables: DetectorVariables, latent: jax.Array) -> jax.Array:
        """What of latents is compared, (B, M, h, w, C); what a reference is learnt from."""
        return self._states(variables, latent)[0]

    def walk(self, variables: DetectorVariables, x0: jax.Array) -> jax.Array:
        """The states from x0 as the network takes it: (B, h, w, C) -> (B, M, h, w, C)."""
        given = {}
        if self.label is not None and variables.reference is not None:
            given["label"] = self.label(variables.reference, x0)
        return self.states(partial(self.denoise, variables.denoiser, **given), x0)

    def judge(self, variables: DetectorVariables, states: jax.Array) -> Scores:
        """Scores states, (B, M, h, w, C)."""
        given: Any = variables.reference
        if self.raw:
            states = unstandardise(states, variables.latent_stats)
        if self.decode is not None:
            B, M, *latent = states.shape
            flat = self.decode(variables.decoder, states.reshape(B * M, *latent))
            given = flat.reshape(B, M, *flat.shape[1:])  # (B, M, S, S, 3)
        return self.compare(given, states, self.image_size)

    def _states(
        self, variables: DetectorVariables, latent: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        """The states, and the kind of product (B,) where the coordinates tell it."""
        x0, component = standardise(latent, variables.latent_stats), None
        if self.whitened and variables.coordinates is not None:
            x0, component = whiten(variables.coordinates, self.where, x0)
        return self.walk(variables, x0), component


def standardise(latent: jax.Array, stats: LatentStats) -> jax.Array:
    """(latent - mean) / std per channel; (B, h, w, C) float32 in and out."""
    mean, std = (jnp.reshape(s, (1, 1, 1, -1)) for s in stats)
    return (latent - mean) / std


def unstandardise(latent: jax.Array, stats: LatentStats) -> jax.Array:
    """`standardise` backwards, (..., C)."""
    mean, std = (jnp.reshape(s, (1,) * (latent.ndim - 1) + (-1,)) for s in stats)
    return latent * std + mean
