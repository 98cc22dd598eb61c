"""Networks that predict the noise: (x_t, t) -> eps.

Read next: `dit.py`, the paper's default; `converters/published.py` exchanges parameters with the
published PyTorch code.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn

from invad_jax.config import DenoiserConfig
from invad_jax.denoisers import dit, dit_diffusers, mlp, unet, unet_ldm, unet_transfusion
from invad_jax.errors import UserError

DENOISERS: dict[str, Callable[[DenoiserConfig, tuple[int, int, int]], nn.Module]] = {
    "dit": dit.build,
    "unet": unet.build,
    "mlp": mlp.build,
    "dit_diffusers": dit_diffusers.build,
    "unet_deco_diff": unet_ldm.build_deco_diff,
    "unet_mad_ad": unet_ldm.build_mad_ad,
    "unet_diad": unet_ldm.build_diad,
    "unet_transfusion": unet_transfusion.build,
}


def build_denoiser(cfg: DenoiserConfig, latent_shape: tuple[int, int, int]) -> nn.Module:
    """The noise predictor of a config.

    Args:
      cfg: its kind and sizes.
      latent_shape: (h, w, C) of the latents.

    Returns:
      A Flax module that maps x_t (B, h, w, C) float32 and t (B,) or (1,), integer or float, to eps
      (B, h, w, C) float32. A t of shape (1,) serves the whole batch: whatever depends on t alone
      is then computed once. Some take more, by name (`SEES`), and some give several outputs, a
      dict of them (`SAYS`).

    Raises:
      UserError: a size does not fit the latents or another size; names the option.

    >>> import jax, jax.numpy as jnp
    >>> model = build_denoiser(DenoiserConfig(width=16, depth=2, num_heads=2), (4, 4, 3))
    >>> x_t, t = jnp.zeros((5, 4, 4, 3)), jnp.array([999])
    >>> params = model.init(jax.random.key(0), x_t, t)
    >>> model.apply(params, x_t, t).shape
    (5, 4, 4, 3)
    """
    if cfg.name not in DENOISERS:
        raise UserError(f"denoiser.name={cfg.name}: expected one of {', '.join(DENOISERS)}")
    return DENOISERS[cfg.name](cfg, latent_shape)
