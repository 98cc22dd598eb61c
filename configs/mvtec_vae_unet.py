"""The paper's U-Net in the latent of a VAE, for all categories of MVTec AD: latent diffusion.

    python -m invad_jax.train_vae --config configs/mvtec_vae.py --set data.root=MVTEC
    python -m invad_jax.train --config configs/mvtec_vae_unet.py --set data.root=MVTEC
    python -m invad_jax.eval --config configs/mvtec_vae_unet.py --set data.root=MVTEC

The first line makes `runs/mvtec_vae`, which the others read. The U-Net has 1.43 billion parameters;
the 16 bytes that training keeps of each are split over the devices (mesh.fsdp=-1). The score is not
the paper's but by Gaussians of normal latents; the paper's is --set scoring.prior=standard_normal.
Steps and warm-up are the published 300 and 40 epochs, of about 3,270 normals that are not held out.
Result: not run.
"""

from invad_jax.config import (
    Config,
    DataConfig,
    DenoiserConfig,
    EncoderConfig,
    MeshConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=DataConfig(name="mvtec", image_size=256),
        encoder=EncoderConfig(name="vae", weights="runs/mvtec_vae"),
        denoiser=DenoiserConfig(
            name="unet",
            width=512,
            num_res_blocks=2,
            channel_mult=(1, 2, 3, 4),
            attention_downsamplings=(2, 4, 8),
            remat=True,
        ),
        mesh=MeshConfig(fsdp=-1),
        train=TrainConfig(num_steps=15_300, batch_size=64, warmup_steps=2_040),
    )
