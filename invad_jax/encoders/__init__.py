"""Frozen encoders, image -> latent. A new one is a `Backbone` and a line in `ENCODERS`.

Images come as bytes at the model's size: each network's own normalisation is part of the encoder,
and so of whatever is compiled or exported with it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from invad_jax.config import EncoderConfig, TilingConfig
from invad_jax.encoders import efficientnet, pixels, resnet, vae, vit
from invad_jax.encoders.backbone import Backbone, ImageDecoder, Variables
from invad_jax.encoders.components import Components, Projected, project
from invad_jax.encoders.feature_stack import stack_features
from invad_jax.encoders.tiles import Apply, tiled
from invad_jax.encoders.weights import load_variables
from invad_jax.errors import UserError, what_there_is
from invad_jax.geometry import encode_in_part

ENCODERS: dict[str, Callable[[EncoderConfig, int], Backbone]] = {
    **dict.fromkeys(efficientnet.VARIANTS, efficientnet.build_backbone),
    **dict.fromkeys(resnet.VARIANTS, resnet.build_backbone),
    **dict.fromkeys(vit.VARIANTS, vit.build_backbone),
    **dict.fromkeys(vae.VARIANTS, vae.build_backbone),
    "vae": vae.build_trained_backbone,
    **dict.fromkeys(pixels.VARIANTS, pixels.build_backbone),
}
"""Name -> builder, (`encoder` options, image size) -> `Backbone`."""


WHOLE = TilingConfig()
"""No tiles."""
Decode = Callable[[Variables, jax.Array], jax.Array]
"""(variables, latent (B, h, w, C)) -> image (B, S, S, 3) float32, about -1..1; pure."""


@dataclass(frozen=True)
class Encoder:
    """A frozen network that turns images into latents."""

    name: str
    apply: Callable[[Variables, jax.Array], jax.Array]
    """(variables, image (B, S, S, 3 or 4) uint8) -> latent (B, h, w, C) float32, NaN where an image
    takes no part (`geometry.py`); pure."""
    features: Callable[[Variables, jax.Array], list[jax.Array]]
    """(variables, image (B, S, S, 3) of any real type, 0..255) -> what `apply` stacks, (B, h, w, C)
    each, finest first; differentiable."""
    variables: Variables
    """Pytree of float32 NumPy arrays."""
    latent_shape: tuple[int, int, int]
    """(h, w, C)."""
    fingerprint: str
    """Hex SHA-256 of all that a latent depends on besides the image."""
    load_decoder: Callable[[], tuple[Decode, Variables]] | None = None
    """The way back and its variables, where there is one; they are read only here."""


def build_encoder(
    config: EncoderConfig,
    image_size: int,
    tiling: TilingConfig = WHOLE,
    region: np.ndarray | None = None,
) -> Encoder:
    """Builds an encoder and loads its weights; all its channels, see `with_components`.

    Args:
      config: the `encoder` options.
      image_size: side in pixels of the images it will be given.
      tiling: how it cuts them; by default it sees them whole.
      region: what of every image takes part, see `geometry.taking_part`; None: all of it.

    Raises:
      UserError: an unknown name, options that do not fit, or weights that cannot be had.

    >>> encoder = build_encoder(EncoderConfig(weights="random", pool=2), image_size=64)
    >>> encoder.latent_shape
    (2, 2, 192)
    """
    backbone, encoder = _with_all_channels(config, image_size, tiling, region)
    variables = load_variables(backbone, config.name, config.weights)
    ingredients = {
        "name": config.name,
        "stages": backbone.stages,
        "resize": config.stage_resize,
        "pool": config.pool,
        "image_size": image_size,
        "mean": backbone.mean,
        "std": backbone.std,
        **({"groups": config.groups} if config.groups else {}),
        **({"tiling": dataclasses.asdict(tiling)} if tiling.size else {}),
        **({} if region is None else {"region": hashlib.sha256(region.tobytes()).hexdigest()}),
    }
    load_decoder = None
    if backbone.decoder and not tiling.size:
        load_decoder = partial(_load_decoder, config, backbone.decoder)
    return dataclasses.replace(
        encoder,
        variables=variables,
        fingerprint=_fingerprint(ingredients, variables),
        load_decoder=load_decoder,
    )


def _load_decoder(config: EncoderConfig, decoder: ImageDecoder) -> tuple[Decode, Variables]:
    return decoder.apply, load_variables(decoder, config.name, config.weights)


def stage_channels(
    config: EncoderConfig, image_size: int, tiling: TilingConfig = WHOLE
) -> tuple[int, ...]:
    """Channels of each run in a latent: of a stage, or of a group of stages; components are one."""
    if config.channels:
        return (config.channels,)
    _, encoder = _with_all_channels(config, image_size, tiling)
    side = tiling.size or image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)
    stages = jax.eval_shape(encoder.features, encoder.variables, images)
    return tuple(stage.shape[-1] for stage in stages)[: config.groups or None]


def with_components(encoder: Encoder, components: Components) -> Encoder:
    """The encoder whose latents are those components of its features."""

    def apply(variables: Projected, image: jax.Array) -> jax.Array:
        return project(variables.components, encoder.apply(variables.backbone, image))

    def features(variables: Projected, image: jax.Array) -> list[jax.Array]:
        return encoder.features(variables.backbone, image)

    h, w, _ = encoder.latent_shape
    return Encoder(
        encoder.name,
        apply,
        features,
        Projected(encoder.variables, components),
        (h, w, components.basis.shape[1]),
        encoder.fingerprint and _fingerprint({"of": encoder.fingerprint}, components),
    )


def describe_encoder(
    config: EncoderConfig,
    image_size: int,
    tiling: TilingConfig = WHOLE,
    region: np.ndarray | None = None,
) -> tuple[Backbone, Encoder]:
    """`build_encoder` without weights: `jax.ShapeDtypeStruct`s for variables, no fingerprint.

    Raises:
      UserError: an unknown name, or options that do not fit.
    """
    backbone, encoder = _with_all_channels(config, image_size, tiling, region)
    if not config.channels:
        return backbone, encoder
    C = encoder.latent_shape[-1]
    if config.channels > C:
        raise UserError(f"encoder.channels={config.channels}: the features have {C}")
    mean, basis = (jax.ShapeDtypeStruct(s, np.float32) for s in ((C,), (C, config.channels)))
    return backbone, with_components(encoder, Components(mean, basis))


def _with_all_channels(
    config: EncoderConfig, image_size: int, tiling: TilingConfig, region: np.ndarray | None = None
) -> tuple[Backbone, Encoder]:
    if config.name not in ENCODERS:
        raise UserError(
            f"encoder.name={config.name}: unknown{what_there_is(config.name, ENCODERS)}"
        )
    try:
        backbone = ENCODERS[config.name](config, tiling.size or image_size)
    except UserError as error:
        if not tiling.size:
            raise
        raise UserError(str(error).replace("data.image_size", "tiling.size")) from None

    def features(variables: Variables, image: jax.Array) -> list[jax.Array]:
        mean, std = (
            jnp.array(x, jnp.float32)[None, None, None] for x in (backbone.mean, backbone.std)
        )
        # Real float32 also on TPUs and recent GPUs, so that latents agree between devices; next to
        # the denoiser the encoder costs little.
        with jax.default_matmul_precision("highest"):
            return backbone.features(variables, (image.astype(jnp.float32) - mean) / std)

    def whole(variables: Variables, image: jax.Array) -> jax.Array:
        stages = features(variables, image)
        return stack_features(stages, config.stage_resize, config.pool, config.groups)

    def shape_of(apply: Apply, side: int) -> tuple[int, int, int]:
        image = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)
        _, h, w, C = jax.eval_shape(apply, backbone.abstract, image).shape
        return h, w, C

    apply: Apply = whole
    if tiling.size:
        apply = tiled(whole, tiling, image_size, shape_of(whole, tiling.size)[0])
    latent_shape = shape_of(apply, image_size)
    apply = encode_in_part(apply, region)
    return backbone, Encoder(config.name, apply, features, backbone.abstract, latent_shape, "")


def _fingerprint(ingredients: dict[str, object], variables: Variables) -> str:
    digest = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}{leaf.dtype}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()
