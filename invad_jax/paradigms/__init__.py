"""Ways of setting an image against normal ones; one place that decides which, from the config.

| `inversion.paradigm` | file | what is compared, with what |
| --- | --- | --- |
| inversion | `inversion.py` | x_T: N(0, I), or a Gaussian of each position |
| reconstruction | `reconstruction.py` | the squared error: nothing |
| residual | `residual.py` | the error about a noise: nothing, or a Gaussian of each position |
| padim | `padim.py` | x0: a Gaussian of each position |
| nearest_neighbour | `nearest_neighbour.py` | x0: vectors of normal images, from anywhere |
| retrieval | `retrieval.py` | x0: vectors of similar normal images, from around the position |
| deco_diff, mad_ad, diad, transfusion, omiad | each | what restoring changed: nothing, or so |

A new one is a file with a function from a config to a `Paradigm`, a line of `PARADIGMS`, and its
name in `config/options.py`. Read next: `paradigm.py`, what it is; `inversion.py`, the method.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from invad_jax.config import Config
from invad_jax.paradigms import (
    deco_diff,
    diad,
    inversion,
    mad_ad,
    masked,
    nearest_neighbour,
    omiad,
    one_step,
    padim,
    reconstruction,
    residual,
    retrieval,
    transfusion,
)
from invad_jax.paradigms.objective import Objective
from invad_jax.paradigms.paradigm import Paradigm

PARADIGMS: dict[str, Callable[[Config], Paradigm]] = {
    "inversion": inversion.paradigm,
    "reconstruction": reconstruction.paradigm,
    "residual": residual.paradigm,
    "padim": padim.paradigm,
    "nearest_neighbour": nearest_neighbour.paradigm,
    "retrieval": retrieval.paradigm,
    "deco_diff": deco_diff.paradigm,
    "mad_ad": mad_ad.paradigm,
    "diad": diad.paradigm,
    "transfusion": transfusion.paradigm,
    "omiad": omiad.paradigm,
}


OBJECTIVES: dict[str, Callable[[Config], Objective]] = {
    "diffusion": inversion.objective,
    "deco_diff": partial(deco_diff.objective, classes=False),
    "deco_diff_class": partial(deco_diff.objective, classes=True),
    "masked": partial(masked.objective, adaptive=False),
    "masked_adaptive": partial(masked.objective, adaptive=True),
    "mad_ad": mad_ad.objective,
    "diad": diad.objective,
    "transfusion": transfusion.objective,
    "omiad": partial(omiad.objective, adversarial=False),
    "omiad_adversarial": partial(omiad.objective, adversarial=True),
    "one_step": one_step.objective,
}


def objective_of(config: Config) -> Objective:
    """What the network of a config is trained to say."""
    return OBJECTIVES[config.train.objective](config)


def paradigm_of(config: Config) -> Paradigm:
    """What a config compares, and with what.

    >>> from invad_jax.config.io import override
    >>> paradigm_of(override(Config(), ["inversion.paradigm=padim"])).nfe
    0
    """
    found = PARADIGMS[config.inversion.paradigm](config)
    terms = config.scoring.terms or found.terms
    return found._replace(terms=terms)
