"""The image itself as its latent: for networks of pixels, and to ask what an encoder is good for.

It has no weights, and nothing is fetched or kept. Read next: `inference/network.py`, how a network
of images is walked.
"""

from __future__ import annotations

import jax

from invad_jax.config import EncoderConfig
from invad_jax.encoders.backbone import Backbone, Variables
from invad_jax.encoders.sources import WITHOUT_WEIGHTS
from invad_jax.errors import UserError

VARIANTS = WITHOUT_WEIGHTS


def build_backbone(config: EncoderConfig, image_size: int) -> Backbone:
    """RGB in -1..1, (S, S, 3), as diffusion models of images take it.

    Raises:
      UserError: a file of weights, or stages of a network, are asked for.
    """
    for option, given in (
        ("weights", config.weights if config.weights not in ("auto", "random") else ""),
        ("stages", ",".join(map(str, config.stages))),
    ):
        if given:
            raise UserError(
                f"encoder.{option}={given}: expected none; encoder.name={config.name} is the image "
                f"itself and has no {option}"
            )

    def features(variables: Variables, image: jax.Array) -> list[jax.Array]:
        return [image]

    return Backbone(
        features=features,
        abstract={},
        convert=lambda tensors: {},
        stages=(),
        mean=(127.5,) * 3,  # to [-1, 1]
        std=(127.5,) * 3,
    )
