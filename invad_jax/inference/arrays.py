"""What was learnt on the host, as the arrays that the detector takes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from invad_jax.coordinates import Coordinates, ImageBank
from invad_jax.normality.image_bank import FittedBank
from invad_jax.normality.memory_bank import FittedMemory
from invad_jax.normality.mixture import FittedPrior
from invad_jax.normality.reference import Learnt
from invad_jax.normality.whitening import FittedCoordinates
from invad_jax.scoring import Memory, Prior, Reference


def reference_to_device(learnt: Learnt) -> Reference:
    """What latents are compared with."""
    return Reference(
        gaussians_to_device(learnt.prior) if learnt.prior else None,
        memory_to_device(learnt.memory) if learnt.memory else None,
        bank_to_device(learnt.bank) if learnt.bank else None,
        gaussians_to_device(learnt.classes) if learnt.classes else None,
    )


def coordinates_to_device(fitted: FittedCoordinates) -> Coordinates:
    """In what latents are taken."""
    return Coordinates(
        gaussians_to_device(fitted.gaussians),
        bank_to_device(fitted.bank) if fitted.bank else None,
    )


def gaussians_to_device(fitted: FittedPrior) -> Prior:
    """A mixture of Gaussians."""
    return Prior(
        mean=jnp.asarray(fitted.mean),
        projection=jnp.asarray(fitted.projection),
        inv_std=jnp.asarray(fitted.inv_std) if fitted.inv_std.size else None,
        log_det=jnp.asarray(fitted.log_det),
        log_weight=jnp.asarray(fitted.log_weight),
    )


def memory_to_device(fitted: FittedMemory) -> Memory:
    """Vectors from anywhere."""
    return Memory(*(jnp.asarray(getattr(fitted, name)) for name in Memory._fields))


def bank_to_device(bank: FittedBank) -> ImageBank:
    """Latents of whole images, position by position."""
    by_position = np.ascontiguousarray(np.moveaxis(bank.latent, 0, 2))
    return ImageBank(*map(jnp.asarray, bank._replace(latent=by_position)))
