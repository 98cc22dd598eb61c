"""AutoencoderKL, the first stage of latent diffusion (Rombach et al. 2022), after their `model.py`.

An image in [-1, 1] becomes a small Gaussian per position; its mean, times a scale that brings it to
unit variance, is the latent. The same network loads Stable Diffusion's VAE and the KL-16 of MAR (Li
et al. 2024), and is what `train_vae.py` trains from scratch.

Read next: `train_vae.py` for the loss, `encoders/__init__.py` for how a latent is used.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from invad_jax.config import EncoderConfig, VAEConfig
from invad_jax.encoders.backbone import Backbone, ImageDecoder, Variables, resolve_stages
from invad_jax.encoders.torch_names import mirrored_params
from invad_jax.encoders.vae_names import ldm_name, ldm_tensors, vae_config_from_state
from invad_jax.encoders.weights import weights_file
from invad_jax.errors import UserError
from invad_jax.io.paths import to_path
from invad_jax.io.tensor_reader import TensorReader
from invad_jax.io.tensors import read_tensors

LOGVAR_RANGE = (-30.0, 20.0)
"""Clipping of the log-variance in the original, which keeps exp() finite early in training."""


STABLE_DIFFUSION = VAEConfig()
KL_16 = VAEConfig(multipliers=(1, 1, 2, 2, 4), encoder_attention=(16,), latent_channels=16)

VARIANTS = {"vae_sd": (STABLE_DIFFUSION, 0.18215), "vae_kl16": (KL_16, 0.2325)}
"""Published VAEs and the scale of their latents, from their authors' code."""

SCALE = "scale"
"""Name of the latents' scale, 1 / standard deviation, in the file that `train_vae` writes."""

ENCODER_PARTS = ("encoder", "quant_conv")
"""The parameters that encoding needs."""
DECODER_PARTS = ("decoder", "post_quant_conv")


def _group_norm(x: jax.Array, name: str) -> jax.Array:
    """GroupNorm of 32 groups, or of the most that a width which 32 does not divide allows."""
    num_groups = math.gcd(32, x.shape[-1])
    # The fast variance E[x^2] - E[x]^2 cancels where the mean is large.
    return nn.GroupNorm(num_groups, epsilon=1e-6, use_fast_variance=False, name=name)(x)


class ResBlock(nn.Module):
    """(norm, swish, 3 x 3 convolution) twice, around it a shortcut, 1 x 1 if the width changes."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.swish(_group_norm(x, "norm1"))
        h = nn.Conv(self.channels, (3, 3), name="conv1")(h)  # (B, H, W, channels)
        h = nn.swish(_group_norm(h, "norm2"))
        h = nn.Conv(self.channels, (3, 3), name="conv2")(h)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, name="nin_shortcut")(x)  # (B, H, W, channels)
        return x + h


class AttentionBlock(nn.Module):
    """Residual self-attention of one head over all positions."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        B, H, W, C = x.shape
        h = _group_norm(x, "norm").reshape(B, H * W, C)  # (B, N, C)
        q, k, v = (nn.Dense(C, name=name)(h) for name in "qkv")
        weights = nn.softmax(jnp.einsum("bqc,bkc->bqk", q, k) / math.sqrt(C))  # (B, N, N)
        h = nn.Dense(C, name="proj_out")(weights @ v)  # (B, N, C)
        return x + h.reshape(B, H, W, C)


class Downsample(nn.Module):
    """Halves the grid; padded at the bottom and right only, unlike "SAME" of odd sizes."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = ((0, 1), (0, 1))
        return nn.Conv(x.shape[-1], (3, 3), strides=2, padding=padding, name="conv")(x)


class Upsample(nn.Module):
    """Doubles the grid by repetition, then convolves."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.repeat(2, axis=1).repeat(2, axis=2)  # (B, 2H, 2W, C)
        return nn.Conv(x.shape[-1], (3, 3), name="conv")(x)


class Middle(nn.Module):
    """Residual block, attention, residual block, at the lowest resolution."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ResBlock(x.shape[-1], name="block_1")(x)
        x = AttentionBlock(name="attn_1")(x)
        return ResBlock(x.shape[-1], name="block_2")(x)


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention if `attention`."""

    channels: int
    num_blocks: int
    attention: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.num_blocks):
            x = ResBlock(self.channels, name=f"block_{i}")(x)
            if self.attention:
                x = AttentionBlock(name=f"attn_{i}")(x)
        return x


class Encoder(nn.Module):
    """Image to the features that hold mean and log-variance."""

    config: VAEConfig

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """(B, H, W, 3) in [-1, 1] -> (B, H / f, W / f, 2 latent_channels), f = downsampling."""
        c = self.config
        x = nn.Conv(c.width, (3, 3), name="conv_in")(image)  # (B, H, W, width)
        for level, multiplier in enumerate(c.multipliers):
            if level > 0:
                x = Downsample(name=f"downsample_{level - 1}")(x)  # (B, H / 2, W / 2, C)
            attention = 2**level in c.encoder_attention
            channels = multiplier * c.width
            x = Level(channels, c.num_res_blocks, attention, name=f"down_{level}")(x)
        x = nn.swish(_group_norm(Middle(name="mid")(x), "norm_out"))
        return nn.Conv(2 * c.latent_channels, (3, 3), name="conv_out")(x)


class Decoder(nn.Module):
    """Latent to image."""

    config: VAEConfig

    @nn.compact
    def __call__(self, latent: jax.Array) -> jax.Array:
        """(B, h, w, latent_channels) -> (B, f h, f w, 3), f = downsampling."""
        c = self.config
        x = nn.Conv(c.width * c.multipliers[-1], (3, 3), name="conv_in")(latent)
        x = Middle(name="mid")(x)
        for level in reversed(range(len(c.multipliers))):
            attention = 2**level in c.decoder_attention
            channels = c.multipliers[level] * c.width
            x = Level(channels, c.num_res_blocks + 1, attention, name=f"up_{level}")(x)
            if level > 0:
                x = Upsample(name=f"upsample_{level}")(x)  # (B, 2h, 2w, C)
        x = nn.swish(_group_norm(x, "norm_out"))
        return nn.Conv(3, (3, 3), name="conv_out")(x)


class AutoencoderKL(nn.Module):
    """Encoder and decoder with the 1 x 1 convolutions between them.

    >>> from functools import partial
    >>> vae = AutoencoderKL(VAEConfig())
    >>> image = jnp.zeros((1, 64, 64, 3))
    >>> variables = jax.eval_shape(vae.init, jax.random.key(0), image)
    >>> mean, logvar = jax.eval_shape(partial(vae.apply, method="encode"), variables, image)
    >>> mean.shape
    (1, 8, 8, 4)
    """

    config: VAEConfig

    def setup(self) -> None:
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.quant_conv = nn.Dense(2 * self.config.latent_channels)
        self.post_quant_conv = nn.Dense(self.config.latent_channels)

    def encode(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Posterior of each latent value.

        Args:
          image: (B, H, W, 3) float32 in [-1, 1]; H and W multiples of `config.downsampling`.

        Returns:
          Mean and log-variance, each (B, h, w, latent_channels).
        """
        moments = self.quant_conv(self.encoder(image))  # (B, h, w, 2 latent_channels)
        mean, logvar = jnp.split(moments, 2, axis=-1)  # (B, h, w, latent_channels) each
        return mean, jnp.clip(logvar, *LOGVAR_RANGE)

    def decode(self, latent: jax.Array) -> jax.Array:
        """(B, h, w, latent_channels), unscaled -> image (B, H, W, 3), not clipped to [-1, 1]."""
        return self.decoder(self.post_quant_conv(latent))

    def __call__(self, image: jax.Array) -> jax.Array:
        """Reconstruction from the posterior's mean, (B, H, W, 3)."""
        mean, _ = self.encode(image)
        return self.decode(mean)


# --- as an encoder


def encode_mean(variables: Variables, image: jax.Array, config: VAEConfig) -> jax.Array:
    """The latent that the denoiser sees: the posterior's mean, scaled to about unit variance.

    Args:
      variables: `params` of the network, of which the encoder's half suffices, and `scale`, a
        scalar: 1 / standard deviation of the means.
      image: (B, H, W, 3) float32 in [-1, 1].

    Returns:
      (B, h, w, latent_channels) float32.
    """
    vae = AutoencoderKL(config)
    mean, _ = vae.apply({"params": variables["params"]}, image, method="encode")
    return mean * variables["scale"]


def decode(variables: Variables, latent: jax.Array, config: VAEConfig) -> jax.Array:
    """`encode_mean` backwards: (B, h, w, latent_channels) -> image (B, H, W, 3), not clipped.

    Args:
      variables: `params` of the decoder's half, and `scale`.
      latent: scaled.
    """
    unscaled = latent / variables["scale"]
    vae = AutoencoderKL(config)
    image: Any = vae.apply({"params": variables["params"]}, unscaled, method="decode")
    return image  # type: ignore[no-any-return]


def build_backbone(config: EncoderConfig, image_size: int) -> Backbone:
    """The published VAE that `config.name` names."""
    return vae_backbone(*VARIANTS[config.name], config, image_size)


def build_trained_backbone(config: EncoderConfig, image_size: int) -> Backbone:
    """The VAE that `train_vae` left in the workdir `config.weights`: its file says every size.

    Raises:
      UserError: no such workdir, or no such file in it.
    """
    if config.weights in ("auto", "random"):
        raise UserError(
            f"encoder.weights={config.weights}: encoder.name={config.name} takes the workdir of a "
            "VAE; train one with python -m invad_jax.train_vae"
        )
    if not to_path(config.weights).exists():
        raise UserError(
            f"encoder.weights={config.weights}: no such workdir; make it with "
            "python -m invad_jax.train_vae"
        )
    path = weights_file(config.name, config.weights)
    tensors = read_tensors(path)
    try:
        vae = vae_config_from_state(tensors)
        scale = float(tensors[SCALE])
        if not 0 < scale < np.inf:
            raise UserError(f"{SCALE} is {scale}, and must be positive")
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: has no number named {SCALE}; train_vae writes one") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return vae_backbone(vae, scale, config, image_size)


def vae_backbone(vae: VAEConfig, scale: float, config: EncoderConfig, image_size: int) -> Backbone:
    """Any VAE as an encoder of one stage; `scale` is kept among its variables.

    Raises:
      UserError: the image size does not fit, or other stages are asked for.
    """
    if image_size % vae.downsampling:
        raise UserError(
            f"data.image_size={image_size}: {config.name} needs a multiple of {vae.downsampling}"
        )

    def features(variables: Variables, image: jax.Array) -> list[jax.Array]:
        return [encode_mean(variables, image, vae)]

    def convert(parts: tuple[str, ...], tensors: dict[str, np.ndarray]) -> Variables:
        params = vae_params_from_state(tensors, vae)
        return {"params": {part: params[part] for part in parts}, "scale": np.float32(scale)}

    def abstract(parts: tuple[str, ...]) -> Variables:
        params = abstract_params(vae)
        number = jax.ShapeDtypeStruct((), jnp.float32)
        return {"params": {part: params[part] for part in parts}, "scale": number}

    return Backbone(
        features=features,
        abstract=abstract(ENCODER_PARTS),
        convert=partial(convert, ENCODER_PARTS),
        stages=resolve_stages(config.stages, (0,), 1),
        mean=(127.5,) * 3,  # to [-1, 1]
        std=(127.5,) * 3,
        decoder=ImageDecoder(
            partial(decode, config=vae), abstract(DECODER_PARTS), partial(convert, DECODER_PARTS)
        ),
    )


def abstract_params(config: VAEConfig) -> Variables:
    """Shapes and types of the parameters, without computing any."""
    image = jax.ShapeDtypeStruct((1, config.downsampling, config.downsampling, 3), jnp.float32)
    return jax.eval_shape(AutoencoderKL(config).init, jax.random.key(0), image)["params"]


# --- weights of others


def vae_params_from_state(state: dict[str, np.ndarray], config: VAEConfig) -> Variables:
    """Parameters of `AutoencoderKL(config)`.

    Args:
      state: name -> array, under one of two namings. That of latent diffusion
        (`encoder.down.0.block.0.conv1.weight`) is in MAR's KL-16 and in whole Stable Diffusion
        checkpoints: a prefix, and what lacks it, are ignored. That of diffusers
        (`encoder.down_blocks.0.resnets.0.conv1.weight`) is in the hub's `vae` folders, with two
        generations of names for attention.
      config: for example `vae_config_from_state(state)`.

    Raises:
      UserError: lists what is missing, unexpected or of another shape.
    """
    tensors = ldm_tensors(state)
    # Our dense layers are 1 x 1 convolutions in one naming, and in part in the other.
    tensors = {k: v[:, :, 0, 0] if v.shape[2:] == (1, 1) else v for k, v in tensors.items()}
    reader = TensorReader(tensors)
    params = mirrored_params(reader, abstract_params(config), ldm_name)
    reader.finish()
    return params


def vae_state_from_params(params: Variables) -> dict[str, np.ndarray]:
    """The parameters under their names in latent diffusion: `vae_params_from_state` backwards.

    Args:
      params: NumPy arrays.
    """
    state = {}
    for path, leaf in flatten_dict(params, sep="/").items():
        if leaf.ndim == 2:
            leaf = leaf[None, None]  # (in, out) -> (1, 1, in, out): a 1 x 1 convolution
        state[ldm_name(path)] = leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf
    return state
