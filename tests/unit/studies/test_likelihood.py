"""The study of the volume term is of the latents and steps that its formulas are of."""

from types import SimpleNamespace

import likelihood
import numpy as np
import pytest

from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.errors import UserError


@pytest.mark.parametrize(
    "options",
    [("diffusion.prediction=v", "train.latent_stats=whiten"), ("inversion.solver=angle",)],
)
def test_other_latents_and_steps_are_refused(options):
    model = SimpleNamespace(config=override(Config(), options))
    with pytest.raises(UserError, match=f"{options[-1]}: the volume terms here are of"):
        likelihood.likelihoods(model, np.zeros((1, 2, 2, 3), np.float32), 1)
    likelihood.refuse_others(Config())
