"""Was the diffusion needed? Two detectors on the same latents that ask no denoiser.

PaDiM (Defard et al. 2021): a Gaussian for each position, scored by Mahalanobis distance.
PatchCore's core (Roth et al. 2022): the distance to the nearest latent vector of a normal image, at
any position; that is `memory.py` on x0. Both as `inversion.paradigm`, with everything else the
same: encoder, latents, calibration, report. Their own choices of network and of channels are not
part of it.

Read next: `reference.py`, which keeps what they learn.
"""

from __future__ import annotations

import numpy as np

from invad_jax import gaussian
from invad_jax.gaussian import Gaussian, Moments

PADIM_REGULARISATION = 0.01
"""Times the identity, added to each covariance; published. It is meant for latents of about unit
variance, as `train.latent_stats=channel` makes them."""


def padim(of: Moments) -> Gaussian:
    """The sample covariance of each position, regularised as published."""
    unbiased = of.count / (of.count - 1)
    added = PADIM_REGULARISATION * np.eye(of.mean.shape[-1])
    return Gaussian(of.mean, gaussian.precision(unbiased * S + added for S in of.covariance), 0)
