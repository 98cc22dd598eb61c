"""Every option has an effect, and none where it says that it is not read: one table.

A row is what another option is set to beforehand, what the option is changed to, and what is looked
at: a traced program, a tree of shapes or a few numbers, small enough to be compared whole.
"""

import ast
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import Config, option_names
from invad_jax.config.effect import is_read
from invad_jax.config.io import assign
from invad_jax.data import pipeline
from invad_jax.detector import LatentStats
from invad_jax.encoders import describe_encoder
from invad_jax.encoders.feature_stack import stack_features
from invad_jax.encoders.vae import AutoencoderKL, abstract_params
from invad_jax.inference import assembly
from invad_jax.inference.whitening import Learner
from invad_jax.normality import calibration
from invad_jax.paradigms import paradigm_of
from invad_jax.paradigms.levels import alpha_bar_of
from invad_jax.planning.programs import trace_train_step
from invad_jax.runtime.sharding import make_mesh, rounded_up
from invad_jax.training.vae_loss import make_vae_loss

TESTS = Path(__file__).resolve().parents[2]
SMALL = (
    "data.image_size=64", "encoder.stages=2,4", "encoder.pool=4", "denoiser.width=16",
    "denoiser.depth=2", "denoiser.num_heads=2", "train.batch_size=8", "train.num_steps=9",
    "train.warmup_steps=2", "inversion.num_steps=2", "diffusion.num_timesteps=50",
)  # fmt: skip
UNET = (
    "denoiser.name=unet", "denoiser.channel_mult=1,1", "denoiser.head_channels=8",
    "denoiser.attention_downsamplings=1", "denoiser.num_res_blocks=1", "encoder.pool=1",
)  # fmt: skip
WHITE = ("train.latent_stats=whiten", "diffusion.prediction=v", "scoring.prior=standard_normal")


@cache
def training_step(config):
    """The program that `train` compiles, as text."""
    _, encoder = describe_encoder(config.encoder, config.data.image_size, config.tiling)
    return str(trace_train_step(config, encoder, make_mesh(config.mesh)).jaxpr)


@cache
def network(config):
    """The program of the network that is trained, as text."""
    _, encoder = describe_encoder(config.encoder, config.data.image_size, config.tiling)
    x_t = jax.ShapeDtypeStruct((1, *encoder.latent_shape), np.float32)
    params = assembly.abstract_params(config, encoder.latent_shape)
    t = jax.ShapeDtypeStruct((1,), np.int32)
    return str(jax.make_jaxpr(partial(assembly.outputs, config))(params, x_t, t))


@cache
def latents(config):
    """The program and the shape of the encoder."""
    backbone, encoder = describe_encoder(config.encoder, config.data.image_size, config.tiling)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.uint8)
    return encoder.latent_shape, str(jax.make_jaxpr(encoder.apply)(backbone.abstract, image))


def stacked(config):
    """What the encoder makes of its stages."""
    rng = np.random.default_rng(0)
    stages = [rng.standard_normal((1, side, side, 2)).astype(np.float32) for side in (16, 4)]
    return stack_features(stages, config.encoder.stage_resize, config.encoder.pool).tolist()


def order(config):
    """What training draws first."""
    return next(pipeline.latent_batches(np.arange(64.0)[:, None], config.train.seed, 8))[
        "latent"
    ].tolist()


@cache
def vae_loss(config):
    """The program of the VAE's loss."""
    features = lambda variables, image: [image]  # noqa: E731
    loss = make_vae_loss(config.vae, config.vae_loss, features)
    image = jnp.zeros((1, 16, 16, 3), jnp.uint8)
    params = abstract_params(config.vae)
    return str(jax.make_jaxpr(loss)(params, (), {"image": image}, jax.random.key(0)))


@cache
def vae(config):
    """The program of the VAE."""
    image = jnp.zeros((1, 16, 16, 3))
    model, params = AutoencoderKL(config.vae), abstract_params(config.vae)
    return str(jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x))(params, image))


def coordinates(config):
    """What is left of latents, and what whitens it."""
    rows = np.random.default_rng(0).standard_normal((12, 3, 3, 2)).astype(np.float32)
    stats = LatentStats(jnp.zeros(2), jnp.ones(2))
    learner = Learner(config, stats, make_mesh(config.mesh))
    fitted, rest = learner.fit(rows, ["nut"] * 12)
    return rest.tobytes(), fitted.gaussians.projection.tobytes()


def scores(config):
    """What is compared, learnt and added up."""
    paradigm = paradigm_of(config)
    x0 = np.random.default_rng(0).standard_normal((2, 2, 2, 3)).astype(np.float32)
    states = paradigm.states(lambda x, t: jnp.tanh(x) * 0.7 + 1e-3 * t[:, None, None, None], x0)
    return np.asarray(states).tobytes(), paradigm.lessons, paradigm.terms, paradigm.compare


def levels(config):
    return alpha_bar_of(config).tolist()


def threshold(config):
    values = {"nll": np.arange(300.0)}
    rate = config.calibration.false_positive_rate
    return calibration.fit(values, ("nll",), (0.0, 1.0), rate, held_out=True).threshold


def layout(config):
    return dict(make_mesh(config.mesh).shape)


def batch(config):
    return rounded_up(config.eval.batch_size, make_mesh(config.mesh))


RECONSTRUCTION = "inversion.paradigm=reconstruction"
ROWS = {
    "data.image_size": ((), "128", latents),
    "encoder.name": ((), "efficientnet_lite1", latents),
    "encoder.stages": ((), "2", latents),
    "encoder.stage_resize": ((), "area", stacked),
    "encoder.pool": ((), "2", latents),
    "tiling.size": (("encoder.pool=2",), "32", latents),
    "tiling.overlap": (("encoder.pool=2", "tiling.size=32"), "16", latents),
    "denoiser.name": ((), "mlp", training_step),
    "denoiser.width": ((), "32", network),
    "denoiser.depth": ((), "3", network),
    "denoiser.num_heads": ((), "4", network),
    "denoiser.patch_size": (("encoder.pool=1",), "2", network),
    "denoiser.num_res_blocks": (UNET, "2", network),
    "denoiser.channel_mult": (UNET, "1,2", network),
    "denoiser.attention_downsamplings": (UNET, "2", network),
    "denoiser.head_channels": (UNET, "16", network),
    "denoiser.norm_groups": (UNET, "4", network),
    "denoiser.norm_eps": (UNET, "1e-6", network),
    "denoiser.variants": (UNET, "time_scale", network),
    "denoiser.dtype": ((), "bfloat16", training_step),
    "denoiser.remat": ((), "true", training_step),
    "diffusion.num_timesteps": ((), "60", levels),
    "diffusion.schedule": ((), "cosine", levels),
    "diffusion.betas": ((), "1e-4,0.03", levels),
    "diffusion.prediction": ((), "v", training_step),
    "vae.width": (("vae.multipliers=1,2",), "64", vae),
    "vae.multipliers": (("vae.width=32",), "1,2", vae),
    "vae.num_res_blocks": (("vae.multipliers=1,2",), "1", vae),
    "vae.encoder_attention": (("vae.multipliers=1,2",), "2", vae),
    "vae.decoder_attention": (("vae.multipliers=1,2",), "2", vae),
    "vae.latent_channels": (("vae.multipliers=1,2",), "3", vae),
    "vae_loss.kl_weight": (("vae.multipliers=1,2",), "0.1", vae_loss),
    "vae_loss.perceptual_weight": (("vae.multipliers=1,2",), "0.1", vae_loss),
    "train.num_steps": ((), "7", training_step),
    "train.batch_size": ((), "16", training_step),
    "train.grad_accumulation": (("train.batch_size=16",), "2", training_step),
    "train.learning_rate": ((), "1e-3", training_step),
    "train.warmup_steps": ((), "5", training_step),
    "train.ema_decay": ((), "0.9", training_step),
    "train.latent_stats": (("diffusion.prediction=v",), "whiten", training_step),
    "train.seed": ((), "1", order),
    "whitening.mean": (WHITE, "position", coordinates),
    "whitening.identity": (WHITE, "1", coordinates),
    "whitening.radius": (WHITE, "0", coordinates),
    "mesh.fsdp": ((), "2", layout),
    "mesh.tensor": ((), "2", layout),
    "inversion.num_steps": ((), "3", scores),
    "inversion.spacing": ((), "paper", scores),
    "inversion.paradigm": ((), "padim", scores),
    "inversion.solver": ((), "angle", scores),
    "inversion.noise_ratio": ((RECONSTRUCTION,), "1", scores),
    "scoring.prior": ((), "standard_normal", scores),
    "scoring.components": ((), "one", scores),
    "scoring.terms": ((), "nll", scores),
    "calibration.false_positive_rate": ((), "0.1", threshold),
    "eval.batch_size": ((), "32", batch),
}
"""Option -> (what is set beforehand, the other value, what is looked at)."""

_LAYOUTS, _DEPTH = "unit/data/test_layouts.py", "unit/data/test_depth.py"
ELSEWHERE = {
    "data.name": (_LAYOUTS, "test_a_missing_root_is_named"),
    "data.root": (_LAYOUTS, "test_a_missing_root_is_named"),
    "data.categories": (_LAYOUTS, "test_categories_are_chosen_by_name_in_sorted_order"),
    "data.aspect": (
        "unit/test_geometry.py",
        "test_a_letterbox_keeps_proportions",
    ),
    "data.region": ("e2e/test_geometry.py", "test_maps_have_the_proportions_of_the_image"),
    "data.value_range": (_DEPTH, "test_values_are_scaled_and_clipped"),
    "data.max_pixels": (_DEPTH, "test_more_pixels_than_allowed"),
    "data.holdout_fraction": (_LAYOUTS, "test_hold_out_divides_every_category_evenly"),
    "data.num_workers": (
        "unit/data/test_pipeline.py",
        "test_worker_processes_give_the_same_batches",
    ),
    "encoder.weights": (
        "unit/encoders/test_kept.py",
        "test_other_weights_may_still_be_asked_for",
    ),
    "encoder.groups": (
        "unit/encoders/test_components.py",
        "test_groups_change_latent_and_fingerprint",
    ),
    "encoder.channels": (
        "unit/encoders/test_components.py",
        "test_an_encoder_of_components_is_the_whole_one_projected",
    ),
    "train.objective": (
        "unit/paradigms/test_objectives.py",
        "test_the_truth_costs_nothing_and_silence_does",
    ),
    "train.teacher": ("e2e/test_rivals.py", "test_a_teacher_has_to_be_one"),
    "denoiser.context": ("unit/converters/test_rivals.py", "test_every_tensor_and_size_is_read"),
    "train.checkpoint_every": ("e2e/test_kill_and_resume.py", "test_two_kills_change_nothing"),
    "inversion.label": (
        "unit/paradigms/test_classes.py",
        "test_a_number_at_test_is_the_label_of_the_walk",
    ),
    "inversion.use_ema": ("e2e/test_convert.py", "test_which_file_is_evaluated"),
}
"""Option -> the test that shows its effect on files, or on a whole run."""


def test_every_option_is_in_one_of_the_tables():
    assert sorted([*ROWS, *ELSEWHERE]) == sorted(option_names())


@pytest.mark.parametrize("name", ROWS)
def test_an_option_has_an_effect(name):
    before, value, look = ROWS[name]
    config = assign(Config(), [*SMALL, *before])
    changed = assign(config, [f"{name}={value}"])
    assert config != changed
    assert is_read(config, name)
    assert look(config) != look(changed)


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("denoiser.")])
@pytest.mark.parametrize("kind", ["dit", "mlp", "unet", "dit_diffusers"])
def test_a_network_reads_what_its_options_say(name, kind):
    if name in ("denoiser.name", "denoiser.variants"):
        return
    _, value, _ = ROWS[name]
    config = assign(Config(), [*SMALL, *UNET, f"denoiser.name={kind}"])
    changed = assign(config, [f"{name}={value}"])
    assert (network(config) != network(changed)) == is_read(config, name)


@pytest.mark.parametrize(("file", "function"), sorted(set(ELSEWHERE.values())))
def test_the_tests_that_are_named_exist(file, function):
    tree = ast.parse((TESTS / file).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert function in names
