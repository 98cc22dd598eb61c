"""The whole detector against the published PyTorch code: trajectories, scores, losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import Config
from invad_jax.config.io import override
from invad_jax.converters.published import denoiser_config_from_published, params_from_published
from invad_jax.coordinates import Neighbourhood
from invad_jax.denoisers import build_denoiser
from invad_jax.detector import Detector, DetectorVariables, LatentStats
from invad_jax.diffusion.inversion import invert
from invad_jax.diffusion.loss import eps_loss
from invad_jax.diffusion.schedule import Plan, linear_alpha_bar, make_plan, spaced_timesteps
from invad_jax.io.tensors import read_tensors
from invad_jax.normality.calibration import test_minmax as minmax_fusion
from invad_jax.paradigms import paradigm_of
from tests.golden import nhwc, relative_error

ALPHA_BAR = linear_alpha_bar(1000, 1e-4, 2e-2)
# What to expect in float32: 1e-4 of the largest value on network outputs and states, 1e-3 on
# scores, which sum up thousands of them.
STATE_TOLERANCE, SCORE_TOLERANCE = 1e-4, 1e-3


@pytest.fixture(scope="module", params=["dit", "mlp"])
def published(request, golden_dir):
    """(golden numbers, detector of S steps, its variables), latents fed raw."""
    folder = golden_dir / f"official_{request.param}"
    tensors, golden = read_tensors(folder / "model_latest.pth"), np.load(folder / "expected.npz")
    latent_shape = nhwc(golden["x0"]).shape[1:]
    cfg = denoiser_config_from_published(tensors, {})
    denoiser = build_denoiser(cfg, latent_shape)
    channels = latent_shape[-1]
    variables = DetectorVariables(
        encoder=(),
        denoiser=params_from_published(tensors, cfg, latent_shape),
        latent_stats=LatentStats(jnp.zeros(channels), jnp.ones(channels)),
    )

    def detector(num_steps):
        options = ["scoring.prior=standard_normal", f"inversion.num_steps={num_steps}"]
        paradigm = paradigm_of(override(Config(), options))
        return Detector(
            encode=lambda variables, image: image,
            denoise=lambda params, x, t: denoiser.apply({"params": params}, x, t),
            states=paradigm.states,
            compare=paradigm.compare,
            inverts=paradigm.inverts,
            whitened=False,
            where=Neighbourhood(0, 1),
            image_size=32,
        )

    @jax.jit
    def denoise(x, t):
        return denoiser.apply({"params": variables.denoiser}, x, t)

    return golden, detector, variables, denoise


walked = jax.jit(invert, static_argnums=0)


@pytest.mark.parametrize("num_steps", [2, 3, 5, 10])
def test_trajectories(published, num_steps):
    golden, _, _, denoise = published
    x0 = jnp.asarray(nhwc(golden["x0"]))
    plan = make_plan(ALPHA_BAR, spaced_timesteps("linspace", num_steps, 1000))
    states = [x0]
    for i in range(num_steps):  # each a walk of one step
        states.append(walked(denoise, states[-1], Plan(*(levels[i : i + 1] for levels in plan))))
    eps = np.stack([denoise(x, t[None]) for x, t in zip(states, plan.timesteps, strict=False)])
    states = np.stack(states)
    expected_states = nhwc(golden[f"S{num_steps}__trajectory"])
    expected_eps = nhwc(golden[f"S{num_steps}__eps"])
    # All steps where the file has them, else the last ones.
    states, eps = states[-len(expected_states) :], eps[-len(expected_eps) :]
    assert relative_error(states, expected_states) < STATE_TOLERANCE
    assert relative_error(eps, expected_eps) < STATE_TOLERANCE


@pytest.mark.parametrize("num_steps", [2, 3, 5, 10])
def test_scores(published, num_steps):
    golden, detector, variables, _ = published
    scores = jax.jit(detector(num_steps).predict)(variables, jnp.asarray(nhwc(golden["x0"])))
    for name, key in [
        ("latent_norm", "latent_norm"), ("map_range", "map_range"), ("nll", "nll"),
        ("anomaly_map", "anomaly_map_32"),
    ]:  # fmt: skip
        error = relative_error(getattr(scores, name), golden[f"S{num_steps}__{key}"])
        assert error < SCORE_TOLERANCE, name
    fused = minmax_fusion(scores.nll, scores.map_range, ["one"] * len(scores.nll))
    expected = golden[f"S{num_steps}__image_score_test_minmax"]
    assert relative_error(fused, expected) < SCORE_TOLERANCE


def test_losses(published):
    golden, _, _, denoise = published
    loss = eps_loss(
        denoise,
        jnp.asarray(nhwc(golden["x0"])),
        jnp.asarray(golden["loss_t"]),
        jnp.asarray(nhwc(golden["loss_noise"])),
        jnp.asarray(ALPHA_BAR, jnp.float32),
    )
    assert relative_error(loss, golden["loss"]) < STATE_TOLERANCE
