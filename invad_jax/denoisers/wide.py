"""Any denoiser, made to see more than x_t and t, and to say more than one thing.

It is built for latents of more channels: some of those that come in are what else it sees, some of
those that come out what else it says. So every network can be trained for every detector.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

ACTIVATIONS = {"mask": nn.sigmoid}
"""Of outputs that are probabilities."""


class Wide(nn.Module):
    """(x_t (B, h, w, C), t, what it sees by name (B, h, w, .), absent: 0) -> outputs by name."""

    core: nn.Module
    """For latents of `channels_of` as many channels; its parameters are all there are."""
    says: tuple[tuple[str, int], ...]
    sees: tuple[tuple[str, int], ...]

    def setup(self) -> None:
        """The parameters keep the names that they have alone."""
        nn.share_scope(self, self.core)

    @property
    def SAYS(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(name for name, _ in self.says)

    @property
    def SEES(self) -> tuple[str, ...]:
        """Names of what it takes beside x_t and t."""
        return tuple(name for name, _ in self.sees)

    def __call__(self, x_t: jax.Array, t: jax.Array, **given: jax.Array) -> dict[str, jax.Array]:
        """See the class."""
        B, h, w, C = x_t.shape
        parts = [x_t]
        for name, count in self.sees:
            shape = (B, h, w, count or C)
            seen = given.get(name, jnp.zeros(shape))
            parts.append(code_of(seen, shape) if seen.ndim == 1 else seen)
        missing = channels_of(C, self.says, self.sees) - sum(part.shape[-1] for part in parts)
        parts += [jnp.zeros((B, h, w, missing))] * (missing > 0)
        core: Any = self.core
        out = core(jnp.concatenate(parts, axis=-1), t)
        found, start = {}, 0
        for name, count in self.says:
            end = start + (count or C)
            found[name] = ACTIVATIONS.get(name, lambda x: x)(out[..., start:end])
            start = end
        return found


def code_of(label: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Classes (B,) int32 as planes of `shape` (B, h, w, n): random numbers, the same of a class, of
    which the first layer makes a vector for each."""

    def draw(k: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(jax.random.key(0), k), shape[-1:])

    return jnp.broadcast_to(jax.vmap(draw)(label)[:, None, None], shape)


def channels_of(
    channels: int, says: tuple[tuple[str, int], ...], sees: tuple[tuple[str, int], ...]
) -> int:
    """Of the latents that `core` is built for."""
    out = sum(count or channels for _, count in says)
    return max(out, channels + sum(count or channels for _, count in sees))
