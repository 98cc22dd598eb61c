"""Losses of training, around networks that are not a config's."""

import numpy as np

from invad_jax.config import Config, DiffusionConfig
from invad_jax.paradigms import objective_of
from invad_jax.training.step import make_loss


def diffusion_loss(predict, alpha_bar, prediction="eps", standardised=False):
    """That of `train.objective=diffusion`.

    Args:
      predict: (params, x_t, t) -> the one output.
      alpha_bar: (T,).
      prediction: what the output is.
      standardised: see `make_loss`.
    """
    levels = np.asarray(alpha_bar, np.float64)
    betas = tuple((1 - levels / np.append(1, levels[:-1])).tolist())
    diffusion = DiffusionConfig(len(betas), "given", betas, prediction)
    objective = objective_of(Config(diffusion=diffusion))
    ((output, _),) = objective.says
    return make_loss(lambda *given: {output: predict(*given)}, objective, standardised)
