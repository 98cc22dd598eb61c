"""Classes that a network is told: their numbers, how one is inferred, and what it changes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invad_jax.config import Config, DenoiserConfig
from invad_jax.config.io import override
from invad_jax.data.pipeline import latent_batches
from invad_jax.denoisers.wide import code_of
from invad_jax.errors import UserError
from invad_jax.inference.arrays import reference_to_device
from invad_jax.inference.assembly import abstract_params, check_outputs, outputs
from invad_jax.inference.network import outputs_of, trajectory_of
from invad_jax.normality import mixture, reference
from invad_jax.normality.mixture import Component
from invad_jax.paradigms import objective_of, paradigm_of
from invad_jax.paradigms.classes import ORDER, class_numbers, inferred
from invad_jax.scoring import Reference
from invad_jax.training.step import make_loss
from tests.parameters import random_like

OPTIONS = (
    "train.objective=deco_diff_class", "inversion.paradigm=deco_diff", "inversion.num_steps=5",
    "diffusion.prediction=deviation", "diffusion.num_timesteps=10",
    "denoiser.width=16", "denoiser.depth=1", "denoiser.num_heads=2",
)  # fmt: skip
SHAPE = (4, 4, 3)


def config_of(*options):
    return override(Config(), [*OPTIONS, *options])


@pytest.fixture(scope="module")
def params():
    return random_like(abstract_params(config_of(), SHAPE), 0.2)


def x0_of(seed, count=2):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((count, *SHAPE)), jnp.float32)


def test_each_class_has_its_own_code():
    codes = code_of(jnp.arange(40), (40, 2, 2, 16))
    np.testing.assert_array_equal(codes[:, 0, 0], codes[:, 1, 1])
    distances = np.linalg.norm(np.asarray(codes[:, None, 0, 0] - codes[None, :, 0, 0]), axis=-1)
    assert distances[~np.eye(40, dtype=bool)].min() > 1
    np.testing.assert_array_equal(codes[7], code_of(jnp.array([7]), (1, 2, 2, 16))[0])


def test_numbers_of_the_published_networks():
    cfg = DenoiserConfig(name="unet_deco_diff", context=(15, 512))
    assert class_numbers(cfg, ["bottle", "capsule", "wood"]).tolist() == [1, 0, 14]
    assert sorted(len(set(names)) for names in ORDER.values()) == [12, 15]
    with pytest.raises(UserError, match="hook is none of the 15 classes"):
        class_numbers(cfg, ["bottle", "hook"])
    assert class_numbers(DenoiserConfig(), ["b", "c", "z"]).tolist() == [0, 1, 2]


def test_training_is_told_the_class_of_each_row(params):
    config = config_of()
    objective = objective_of(config)
    batch = next(latent_batches(np.asarray(x0_of(0, 6)), 0, 6, label=np.arange(6, dtype=np.int32)))
    assert sorted(batch["label"].tolist()) == list(range(6))
    np.testing.assert_array_equal(batch["latent"], np.asarray(x0_of(0, 6))[batch["label"]])
    loss_fn = make_loss(
        lambda params, *a, **k: outputs(config, params, *a, **k), objective, standardised=True
    )
    drawn, given = jax.jit(loss_fn.draw)(batch, jax.random.key(0)), jax.jit(loss_fn.given)
    of_right = given(params, None, drawn)[0]
    of_others = given(params, None, drawn | {"label": drawn["label"] + 1})[0]
    assert of_right != of_others


def test_a_number_at_test_is_the_label_of_the_walk(params):
    config, x0 = config_of("inversion.label=2"), x0_of(3)

    def ask(x, t, **given):
        return outputs(config, params, x, t, **given)

    two, silent = (jax.jit(partial(paradigm_of(c).path, ask)) for c in (config, config_of()))
    told = two(x0)
    np.testing.assert_allclose(told, silent(x0, label=jnp.array([2, 2])), atol=1e-6)
    assert not np.allclose(told, silent(x0), atol=1e-4)
    label = jnp.array([1, 0])
    np.testing.assert_allclose(two(x0, label=label), silent(x0, label=label), atol=1e-6)


def test_a_label_is_handed_to_a_network_that_was_trained_here(params):
    config, x0 = config_of(), np.asarray(x0_of(3))
    silent, told = (outputs_of(config, params, x0, 4, {"label": k}) for k in (None, [7, 0]))
    assert not np.allclose(told["deviation"], silent["deviation"], atol=1e-4)
    walk = trajectory_of(config, params, x0, {"label": 2})
    named = trajectory_of(config_of("inversion.label=2"), params, x0, {})
    np.testing.assert_array_equal(walk, named)
    for wrong in (-1, 2**31, [1, 2, 3], 0.5):
        with pytest.raises(UserError, match="label: expected"):
            outputs_of(config, params, x0, 4, {"label": wrong})
    with pytest.raises(UserError, match=r"inversion.label=2147483648: this network knows 0\.\."):
        check_outputs(config_of("inversion.label=2147483648"), SHAPE)


def test_a_class_is_inferred_from_x0(tmp_path):
    rng = np.random.default_rng(5)
    centres = 3 * rng.standard_normal((3, 1, *SHAPE))
    images = [centre + rng.standard_normal((12, 1, *SHAPE)) for centre in centres]
    names = ["a", "b", "c"]
    fitted = mixture.fit(
        Component(name, [some.astype(np.float32)]) for name, some in zip(names, images, strict=True)
    )
    learnt = reference.Learnt(classes=fitted)
    lessons = paradigm_of(
        config_of("inversion.label=inferred", "scoring.prior=standard_normal")
    ).lessons
    assert lessons.classes
    reference.write(tmp_path, learnt)
    kept = reference_to_device(reference.read(tmp_path, lessons))
    kept = kept._replace(label=jnp.array([4, 0, 2]))
    new = np.concatenate([c + rng.standard_normal((4, 1, *SHAPE)) for c in centres])[:, 0]
    found = inferred(kept, jnp.asarray(new, jnp.float32))
    assert found.tolist() == [4] * 4 + [0] * 4 + [2] * 4


@pytest.mark.parametrize("prior", ["fitted", "standard_normal"])
def test_what_was_learnt_of_classes_leaves_the_comparison_as_it_is(prior):
    """A reference that holds classes alone, as before the states of normal images are known."""
    paradigm = paradigm_of(config_of("inversion.label=inferred", f"scoring.prior={prior}"))
    assert (paradigm.lessons.classes, bool(paradigm.lessons.gaussians)) == (True, prior == "fitted")
    if prior == "standard_normal":
        states = jnp.stack([x0_of(0), x0_of(1)], axis=1)
        found = paradigm.compare(Reference(label=jnp.array([0])), states, 16)
        expected = jnp.mean(jnp.abs(x0_of(1) - x0_of(0)), axis=-1)
        np.testing.assert_allclose(found.latent_norm, expected, rtol=1e-6)


def test_who_takes_no_class_is_told_none():
    for objective, label in (("deco_diff", "1"), ("deco_diff", "inferred")):
        config = config_of(f"inversion.label={label}", f"train.objective={objective}")
        with pytest.raises(UserError, match=rf"inversion.label={label}: this network takes no"):
            check_outputs(config, SHAPE)
    check_outputs(config_of("inversion.label=inferred"), SHAPE)
    published = Config(
        denoiser=DenoiserConfig(
            name="unet_deco_diff", width=32, num_res_blocks=1, channel_mult=(1,),
            attention_downsamplings=(1,), head_channels=16, context=(3, 8),
        )
    )  # fmt: skip
    options = list(OPTIONS[1:5])
    published = override(published, [*options, "inversion.label=3"])
    with pytest.raises(UserError, match=r"this network knows 0..2"):
        check_outputs(published, (8, 8, 4))
    for wrong in ("bottle", "-1", "1.5", ""):
        with pytest.raises(UserError, match="expected none, inferred or a number"):
            config_of(f"inversion.label={wrong}")
