"""The precision of what scores: what the compiled program is asked for, on any device."""

import jax
import jax.numpy as jnp
import pytest

from invad_jax.config import Config, DenoiserConfig
from invad_jax.inference.assembly import abstract_params, build_detector, in_precision

CONFIG = Config(denoiser=DenoiserConfig(width=16, depth=1, num_heads=2))
SHAPE = (4, 4, 3)


@pytest.mark.parametrize(("dtype", "asked"), [("float32", "HIGHEST"), ("bfloat16", "DEFAULT")])
def test_products_of_a_detector_in_float32_are_float32_on_every_device(dtype, asked):
    config = in_precision(CONFIG, dtype)
    detector = build_detector(config, SHAPE, lambda variables, image: image)
    x = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    params = abstract_params(config, SHAPE)
    text = jax.jit(detector.denoise).lower(params, x, t).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) > 8  # embedding, attention, feed-forward, modulation, output
    assert all(f"precision = [{asked}, {asked}]" in line for line in products)
