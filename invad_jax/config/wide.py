"""Experiments on wide features: middle layers of DINOv2 on a fine grid, for accelerators.

Read next: `configs/mvtec_dinov2.py`, one of them.
"""

from __future__ import annotations

import dataclasses

from invad_jax.config import (
    Config,
    DataConfig,
    DenoiserConfig,
    EncoderConfig,
    EvalConfig,
    MeshConfig,
    TrainConfig,
)
from invad_jax.config.whitened import whitened


def wide_config(data: DataConfig, num_steps: int = 20_000) -> Config:
    """DINOv2-reg B at 392 px, whitened: 28 x 28 positions of 256 principal components.

    The features are the means of layers 2 to 5 and 6 to 9, as Dinomaly groups them (Guo et al.,
    CVPR 2025): 1,536 channels. The network has 131 M parameters, its tokens are 2 x 2 positions.
    What is kept of N normal images of K kinds, on every device: 0.206 K GB of whitening matrices
    and 0.00040 N GB of latents.

    Args:
      data: where the images are.
      num_steps: of training; 0 leaves the network out.

    >>> wide_config(DataConfig()).encoder.channels
    256
    """
    return whitened(
        Config(
            data=dataclasses.replace(data, image_size=392),
            encoder=EncoderConfig(
                name="dinov2_vitb14_reg",
                stages=(2, 3, 4, 5, 6, 7, 8, 9),
                groups=2,
                channels=256,
            ),
            denoiser=DenoiserConfig(name="dit", width=768, depth=12, num_heads=12, patch_size=2),
            train=TrainConfig(num_steps=num_steps, batch_size=64, learning_rate=1e-4),
            mesh=MeshConfig(fsdp=-1),
            eval=EvalConfig(batch_size=64),
        )
    )
