"""What the training of a VAE minimises: reconstruction, divergence, and features that stay alike.

    loss = |image - reconstruction| + kl_weight KL(q || N(0, I)) + perceptual_weight distance

The divergence, a sum over the latent, is divided by the number of the image's values, so that
`kl_weight` weighs what the same number weighs in latent diffusion (Rombach et al. 2022), whose
terms are sums. The distance is that of LPIPS (Zhang et al. 2018) with all its weights 1.

Read next: `encoders/vae.py`, the network; `train_vae.py`, the main.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from invad_jax.config import VAEConfig, VAELossConfig
from invad_jax.encoders.vae import AutoencoderKL
from invad_jax.training.step import Batch, Loss, LossFn, Params

Features = Callable[[Any, jax.Array], Sequence[jax.Array]]
"""(variables, image (B, S, S, 3) in 0..255) -> several (B, h, w, C)."""


def to_signed(image: jax.Array) -> jax.Array:
    """0..255 of any type -> [-1, 1] float32."""
    return image.astype(jnp.float32) / 127.5 - 1


def kl_to_standard_normal(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of every value, in nats; the shape of both."""
    return 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar)


def sample_posterior(mean: jax.Array, logvar: jax.Array, noise: jax.Array) -> jax.Array:
    """mean + std noise, which lets gradients through to both."""
    return mean + jnp.exp(0.5 * logvar) * noise


def perceptual_distance(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> jax.Array:
    """Mean squared distance of feature vectors of length 1, averaged over the stages: () in 0..4.

    Args:
      a: features of images, (B, h, w, C) each.
      b: those of other images.
    """
    return jnp.mean(
        jnp.stack(
            [
                jnp.mean(jnp.sum(jnp.square(_unit(x) - _unit(y)), axis=-1))
                for x, y in zip(a, b, strict=True)
            ]
        )
    )


def _unit(x: jax.Array) -> jax.Array:
    # Inside the root: its slope at a vector of zeros must be finite.
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-10)


def make_vae_loss(vae: VAEConfig, cfg: VAELossConfig, features: Features | None) -> LossFn:
    """The loss of a batch of images, with a sample of the posterior a value.

    Args:
      vae: sizes.
      cfg: the terms.
      features: of the frozen network that the perceptual term looks through; None leaves it out.

    Returns:
      A `LossFn` whose `frozen` are the variables of `features` and whose batch has `image`
      (B, S, S, 3) uint8. It also logs `reconstruction`, `kl` in nats a latent value, and
      `perceptual`.
    """
    model = AutoencoderKL(vae)

    def draw(batch: Batch, rng: jax.Array) -> Batch:
        B, S, _, _ = batch["image"].shape
        side = S // vae.downsampling
        shape = (B, side, side, vae.latent_channels)  # (B, h, w, C)
        return {**batch, "noise": jax.random.normal(rng, shape)}

    def given(params: Params, frozen: Any, batch: Batch) -> Loss:
        image = to_signed(batch["image"])  # (B, S, S, 3)
        posterior: Any = model.apply({"params": params}, image, method="encode")
        mean, logvar = posterior  # (B, h, w, C) each
        latent = sample_posterior(mean, logvar, batch["noise"])
        decoded: Any = model.apply({"params": params}, latent, method="decode")  # (B, S, S, 3)
        reconstruction = jnp.mean(jnp.abs(image - decoded))
        kl = jnp.mean(kl_to_standard_normal(mean, logvar))
        scalars = {"reconstruction": reconstruction, "kl": kl}
        loss = reconstruction + cfg.kl_weight * kl * (mean.size / image.size)
        if features is not None:
            seen, wanted = (features(frozen, 127.5 * (x + 1)) for x in (decoded, image))
            scalars["perceptual"] = perceptual_distance(seen, wanted)
            loss += cfg.perceptual_weight * scalars["perceptual"]
        return loss, scalars

    return LossFn(draw, given)
