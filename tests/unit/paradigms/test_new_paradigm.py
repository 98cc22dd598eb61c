"""A way of comparing of one's own, added the way CONTRIBUTING says: a function and a line."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax import paradigms
from invad_jax.config import Config
from invad_jax.detector import DetectorVariables, LatentStats
from invad_jax.inference.arrays import reference_to_device
from invad_jax.inference.assembly import build_detector, init_params
from invad_jax.normality import gaussian, reference
from invad_jax.normality.mixture import Component
from invad_jax.normality.reference import Lessons
from invad_jax.paradigms import paradigm_of
from invad_jax.paradigms.paradigm import Paradigm
from invad_jax.scoring import score_under

SHAPE = (4, 4, 3)


def toy(config):
    """What invad_jax/paradigms/toy.py would hold: Gaussians of |x0|."""
    return Paradigm(
        timesteps=(),
        states=lambda eps_fn, x0: jnp.abs(x0)[:, None],
        compare=score_under,
        lessons=Lessons(gaussians=gaussian.fit, components=config.scoring.components),
        terms=("map_max",),
        whitened=False,
    )


@pytest.fixture
def config(monkeypatch):
    """The line in `paradigms/__init__.py`, and a config that names it."""
    monkeypatch.setitem(paradigms.PARADIGMS, "toy", toy)
    config = Config()
    small = dataclasses.replace(config.denoiser, name="mlp", width=16, depth=1)
    named = dataclasses.replace(config.inversion, paradigm="toy")
    return dataclasses.replace(config, denoiser=small, inversion=named)


def test_it_is_learnt_and_scored_like_any_other(config):
    paradigm = paradigm_of(config)
    assert paradigm.terms == ("map_max",)
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((40, *SHAPE)).astype(np.float32)
    learnt = reference.learn(
        paradigm.lessons,
        [Component("nut", [np.asarray(paradigm.states(None, jnp.asarray(normal)))])],
    )
    detector = build_detector(config, SHAPE, lambda variables, image: image)
    variables = DetectorVariables(
        (),
        init_params(config, SHAPE, jax.random.key(0)),
        LatentStats(jnp.zeros(3), jnp.ones(3)),
        reference_to_device(learnt),
    )
    latent = np.concatenate([normal[:2], 9 + normal[2:4]])
    scores = jax.jit(detector.score_latents)(variables, latent)
    # Far outside of 40 normal values, whose length is about 1.7 standard deviations.
    assert scores.map_max[2:].min() > 5 > scores.map_max[:2].max()
    mirrored = jax.jit(detector.score_latents)(variables, -latent)
    np.testing.assert_allclose(scores.map_max, mirrored.map_max, rtol=1e-6)  # of |x0| alone
